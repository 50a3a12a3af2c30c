"""Decode processes: the same turns as in a thread, and an end to what hangs, bloats or crashes."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import vita
from tests.serve.conftest import ASSETS
from vita.errors import Cancelled, MediaError
from vita.media.policy import UNGUARDED, ReadGuard
from vita.prompt.template import Media
from vita.runtime.clock import Stopwatch
from vita.serve.media_process import PROCESSES, MediaProcesses
from vita.serve.options import Limits, ServeOptions
from vita.types import Audio, Image, MediaOptions, Message, Text, Video

CLIP = next((ASSETS.parent / "tests/default/heldout").glob("*.mp4"))
OPTIONS = ServeOptions(limits=Limits(media_seconds=20)).media


@pytest.fixture(scope="module")
def processes(embedded: vita.Vita) -> Iterator[MediaProcesses]:
    made = MediaProcesses(embedded.engine.processor.config, Limits(media_seconds=20, media_bytes=1 << 30))
    made.start()
    yield made
    made.close()


def read(processes: MediaProcesses, *parts: vita.Text | Image | Audio | Video, guard: ReadGuard = UNGUARDED) -> object:
    return processes.read_turn(Message("user", parts), OPTIONS, Stopwatch(), guard)


def test_a_turn_is_the_one_that_a_thread_reads(processes: MediaProcesses, embedded: vita.Vita) -> None:
    image, audio, clip = ((ASSETS / n).read_bytes() for n in ("vita_logo.png", "what_can_you_do.flac", CLIP))
    message = Message("user", (Text("a"), Image(image), Video(clip), Text("b"), Audio(audio)))
    there, here = Stopwatch(), Stopwatch()
    far = processes.read_turn(message, OPTIONS, there, UNGUARDED)
    near = embedded.engine.processor.read_turn(message, OPTIONS, here, UNGUARDED)
    assert far == near  # digests stand for the arrays
    for one, other in zip(far.pieces, near.pieces, strict=True):
        if isinstance(one, Media) and isinstance(other, Media):
            for a, b in zip(one.spans, other.spans, strict=True):
                assert all(np.array_equal(x, y) for x, y in zip(a.data, b.data, strict=True))
    assert there.seconds.keys() == here.seconds.keys()


def test_the_processes_do_not_load_torch(processes: MediaProcesses) -> None:
    assert read(processes, Image(ASSETS.joinpath("vita_logo.png").read_bytes()))
    for pid in processes.pids:
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_arrays_and_texts_need_no_process(embedded: vita.Vita) -> None:
    stopped = MediaProcesses(embedded.engine.processor.config, Limits())
    pixels = np.zeros((40, 40, 3), np.uint8)
    assert read(stopped, Text("a"), Image(vita.Array(pixels)), Audio(vita.Array(np.zeros(3200, np.float32)), 16000))
    with pytest.raises(MediaError, match="the server is stopping"):
        read(stopped, Image(b"GIF89a"))


def test_errors_keep_their_sentence(processes: MediaProcesses) -> None:
    local = MediaOptions()
    for part, options in (
        (Image(b"not an image"), OPTIONS), (Audio(b"RIFF"), OPTIONS), (Video(b"\0" * 99), OPTIONS),
        (Image(ASSETS / "missing.png"), local), (Image("/etc/passwd"), OPTIONS), (Image("data:,"), OPTIONS),
    ):  # fmt: skip
        with pytest.raises(MediaError) as far:
            processes.read_turn(Message("user", (part,)), options, Stopwatch(), UNGUARDED)
        assert "could not be decoded" not in str(far.value) and str(far.value).count(".") <= 3


def test_a_decoder_that_hangs_is_killed_at_the_deadline(processes: MediaProcesses) -> None:
    for pid in processes.pids:
        os.kill(pid, signal.SIGSTOP)
    before = processes.pids
    began = time.monotonic()
    with pytest.raises(MediaError, match="took too long to read"):
        read(processes, Image(ASSETS.joinpath("vita_logo.png").read_bytes()), guard=ReadGuard.start(1.0))
    assert time.monotonic() - began < 30
    for pid in before:  # the other one goes on
        if pid in processes.pids:
            os.kill(pid, signal.SIGCONT)
    assert len(processes.pids) == PROCESSES and processes.pids != before
    assert read(processes, Image(ASSETS.joinpath("vita_logo.png").read_bytes()))


def test_a_cancelled_request_does_not_wait_for_its_decoder(processes: MediaProcesses) -> None:
    for pid in processes.pids:
        os.kill(pid, signal.SIGSTOP)
    gone = threading.Event()
    threading.Timer(0.3, gone.set).start()
    stopped = processes.pids
    with pytest.raises(Cancelled):
        read(processes, Image(ASSETS.joinpath("vita_logo.png").read_bytes()), guard=ReadGuard(None, gone.is_set))
    for pid in set(stopped) & set(processes.pids):
        os.kill(pid, signal.SIGCONT)
    assert read(processes, Image(ASSETS.joinpath("vita_logo.png").read_bytes()))


def test_a_decoder_that_crashes_ends_one_request(processes: MediaProcesses) -> None:
    image = ASSETS.joinpath("vita_logo.png").read_bytes()
    for pid in processes.pids:
        os.kill(pid, signal.SIGKILL)
    crashed = 0
    for _ in range(PROCESSES + 1):
        try:
            read(processes, Image(image))
        except MediaError as error:
            assert "crashed or took too much memory" in str(error)
            crashed += 1
    assert crashed == PROCESSES


def png_of(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel, whose pixels are packed a thousandfold."""
    chunks = b""
    body = zlib.compress((b"\0" + bytes(-(-width // 8))) * height, 1)
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((1, 0, 0, 0, 0))
    for kind, data in ((b"IHDR", head), (b"IDAT", body), (b"IEND", b"")):
        chunks += len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_an_image_bomb_is_refused_by_its_size(processes: MediaProcesses) -> None:
    with pytest.raises(MediaError, match="pixels"):
        read(processes, Image(png_of(20_000, 20_000)))


def test_memory_is_limited_where_the_size_says_nothing(embedded: vita.Vita) -> None:
    small = MediaProcesses(embedded.engine.processor.config, Limits(media_bytes=400 << 20))
    small.start()
    try:
        with pytest.raises(MediaError, match="memory"):
            small.read_turn(Message("user", (Image(png_of(9_000, 9_000)),)), MediaOptions(), Stopwatch(), UNGUARDED)
        assert small.read_turn(Message("user", (Image(png_of(50, 50)),)), OPTIONS, Stopwatch(), UNGUARDED)
    finally:
        small.close()


def test_no_key_reaches_the_processes_and_none_is_left(embedded: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITA_API_KEY", "a-key-of-this-test")
    made = MediaProcesses(embedded.engine.processor.config, Limits())
    made.start()
    pids = made.pids
    out = io.BytesIO()
    Pillow.new("RGB", (8, 8)).save(out, "PNG")
    assert read(made, Image(out.getvalue()))
    for pid in pids:
        assert b"a-key-of-this-test" not in Path(f"/proc/{pid}/environ").read_bytes()
    made.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids) and made.pids == []


@pytest.mark.slow
def test_a_process_ends_with_its_server() -> None:
    import subprocess
    import sys

    code = (
        "import vita, sys, time\n"
        "from vita.serve.media_process import MediaProcesses\n"
        "from vita.serve.options import Limits\n"
        "from vita.checkpoint.open import open_checkpoint\n"
        "made = MediaProcesses(open_checkpoint(None).config, Limits()); made.start()\n"
        "print(*made.pids, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == PROCESSES
    parent.kill()
    parent.wait()
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < until, "the decode processes outlived their server"
        time.sleep(0.1)
