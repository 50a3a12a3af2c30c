"""Animated images as videos: which frames, when, and how much work."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow
from tests.media.image_files import SIGNATURE, chunk

from vita.errors import MediaError
from vita.media.animation import open_animation
from vita.media.image import load_image
from vita.media.source import Loaded
from vita.media.video import load_video
from vita.types import MediaOptions, MediaPolicy, Video

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]


def animated(kind: str, count: int = 4, size: tuple[int, int] = (16, 12), **options: object) -> bytes:
    frames = [Pillow.new("RGB", size, COLOURS[k % 4]) for k in range(count)]
    out = io.BytesIO()
    quality = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], duration=500, **quality, **options)
    return out.getvalue()


def first_pixels(data: bytes) -> list[tuple[int, ...]]:
    return [frame.getpixel((0, 0)) for frame in load_video(Video(data, fps=100)).frames]  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_frames_and_times_are_those_of_the_file(kind: str) -> None:
    clip = load_video(Video(animated(kind), fps=100))
    assert clip.n_frames == 4 and clip.times == [0.0, 0.5, 1.0, 1.5]
    assert first_pixels(animated(kind)) == COLOURS


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_hidden_default_image_is_no_frame(count: int) -> None:
    data = animated("PNG", count + 1, default_image=True)
    clip = load_video(Video(data, fps=100))
    assert clip.n_frames == count
    assert sorted(set(clip.times)) == [0.5 * k for k in range(count)]
    assert list(dict.fromkeys(first_pixels(data))) == COLOURS[1 : count + 1] or count == 4
    assert clip.frames[0].getpixel((0, 0)) == COLOURS[1], "not the image for programs that show no APNG"
    assert load_image(data).getpixel((0, 0)) == COLOURS[0], "as a still image it is the default image"
    late = load_video(Video(data, start=0.5))
    assert late.frames[0].getpixel((0, 0)) == COLOURS[2 % 4]


def test_an_animation_of_one_frame_behind_a_default_image() -> None:
    data = animated("PNG", 2, default_image=True)
    assert set(first_pixels(data)) == {COLOURS[1]}


def test_a_still_image_is_no_video() -> None:
    for kind in ("GIF", "PNG", "WEBP"):
        out = io.BytesIO()
        Pillow.new("RGB", (9, 9)).save(out, kind)
        with pytest.raises(MediaError, match="is a still image, not a video"):
            load_video(Video(out.getvalue()))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_pixels_of_all_frames_are_counted_before_they_are_decoded(kind: str) -> None:
    data = animated(kind, 40, (20, 20))
    assert load_video(Video(data), MediaOptions(policy=MediaPolicy(max_pixels=500))).n_frames == 40
    with pytest.raises(MediaError, match="40 frames of 20x20"):
        load_video(Video(data), MediaOptions(policy=MediaPolicy(max_pixels=499)))


def test_a_frame_larger_than_its_screen_is_measured() -> None:
    data = animated("GIF")
    frame = data.rindex(b",\0\0\0\0")
    grown = data[: frame + 5] + struct.pack("<HH", 5000, 5000) + data[frame + 9 :]
    with pytest.raises(MediaError, match="5000x5000"):
        load_video(Video(grown), MediaOptions(policy=MediaPolicy(max_pixels=1_000_000)))


def test_an_apng_that_promises_more_frames_than_it_has_is_read() -> None:
    data = animated("PNG")
    body = struct.pack(">II", 1 << 30, 0)
    at = data.index(b"acTL") - 4
    lying = data[:at] + chunk(b"acTL", body) + data[at + 20 :]
    animation = open_animation(Loaded("a", data=lying), MediaOptions())
    assert animation is not None and len(animation.times) == 4


def test_damage_ends_an_animation_with_a_note() -> None:
    data = animated("GIF", 4, (64, 64))
    clip = load_video(Video(data[: len(data) - len(data) // 4]))
    assert 1 <= clip.n_frames < 4
    out = io.BytesIO()
    noise = [Pillow.effect_noise((64, 64), 50 + k) for k in range(4)]
    noise[0].save(out, "PNG", save_all=True, append_images=noise[1:], duration=500)
    broken = bytearray(out.getvalue())
    place = broken.rindex(b"fdAT") + 20
    broken[place : place + 40] = bytes(40)
    clip = load_video(Video(bytes(broken)))
    assert clip.n_frames == 3
    assert clip.notes[0] == f"<{len(broken):,} bytes>: it is damaged after frame 3; the frames before that were used."


def test_side_chunks_do_not_spoil_an_animation() -> None:
    data = animated("PNG")
    side = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(3 << 20))) + chunk(b"gAMA", b"")
    assert data.startswith(SIGNATURE)
    assert first_pixels(data[:33] + side + data[33:]) == COLOURS


def test_transparent_frames_are_put_on_white() -> None:
    frames = [Pillow.new("RGBA", (8, 8), (10, 20, 30, 255 * (k % 2))) for k in range(4)]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=500, lossless=True)
    shown = [np.asarray(f)[0, 0].tolist() for f in load_video(Video(out.getvalue(), fps=100)).frames]
    assert shown == [[255] * 3, [10, 20, 30]] * 2
