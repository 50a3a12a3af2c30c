"""The guard: a deadline or a cancel ends every reader, and never a file that is in time."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from vita.errors import Cancelled, MediaError, RequestError
from vita.media.animation import open_animation
from vita.media.image import load_image
from vita.media.policy import UNGUARDED, ReadGuard
from vita.media.source import read_source
from vita.types import MediaOptions, MediaPolicy

NOISE = Pillow.effect_noise((640, 480), 60)
PASSED = ReadGuard(until=time.monotonic() - 1)
CANCELLED = ReadGuard(cancelled=lambda: True)


def saved(kind: str, image: Pillow.Image = NOISE, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def gif(frames: int = 5) -> bytes:
    return saved("GIF", NOISE.resize((32, 32)), save_all=True, append_images=[
        Pillow.effect_noise((32, 32), 10 + k) for k in range(frames - 1)
    ])  # fmt: skip


READERS: dict[str, Callable[[ReadGuard], object]] = {
    "PNG": lambda guard: load_image(saved("PNG"), None, guard),
    "JPEG": lambda guard: load_image(saved("JPEG"), None, guard),
    "TIFF": lambda guard: load_image(saved("TIFF", NOISE.convert("F")), None, guard),
    "array": lambda guard: load_image(np.zeros((9, 9), np.uint8), None, guard),
    "PIL": lambda guard: load_image(NOISE, None, guard),
    "stream": lambda guard: read_source(io.BytesIO(saved("PNG")), MediaOptions(), "image", guard),
    "animation": lambda guard: open_animation(read_source(gif(), MediaOptions(), "video"), MediaOptions(), guard),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_passed_deadline_or_a_cancel_ends_the_reader(reader: str) -> None:
    READERS[reader](UNGUARDED)
    READERS[reader](ReadGuard.start(600))
    with pytest.raises(MediaError, match="took too long"):
        READERS[reader](PASSED)
    with pytest.raises(Cancelled):
        READERS[reader](CANCELLED)


class After:
    """Cancels at the n-th question."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_cancel_is_seen_while_a_file_is_decoded(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(saved(kind, Pillow.effect_noise((1500, 1500), 90)))
    counter = After(1_000_000)
    load_image(path, None, ReadGuard(cancelled=counter))
    asked = 1_000_000 - counter.left
    assert asked > 10, "the guard is asked between blocks"
    for count in range(0, asked, max(1, asked // 12)):
        with pytest.raises(Cancelled):
            load_image(path, None, ReadGuard(cancelled=After(count)))


def test_a_cancel_is_seen_at_each_frame() -> None:
    loaded = read_source(gif(40), MediaOptions(), "video")
    counter = After(1_000_000)
    animation = open_animation(loaded, MediaOptions(), ReadGuard(cancelled=counter))
    assert animation is not None and len(animation.times) == 40
    assert 1_000_000 - counter.left > 40
    with pytest.raises(Cancelled):
        animation.decode([39], MediaOptions(), ReadGuard(cancelled=After(30)))


def test_the_policy_normalises_hosts() -> None:
    assert MediaPolicy(domains="Example.COM").domains == ("example.com",)  # type: ignore[arg-type]
    assert MediaPolicy(domains=(".example.com", "b.org.")).domains == ("example.com", "b.org")
    for value in ((), ("a",)):
        assert MediaPolicy(domains=value).domains == value
    with pytest.raises(RequestError):
        MediaPolicy(domains=("",))
