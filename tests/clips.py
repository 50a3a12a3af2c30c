"""Small video clips whose frames carry their number, made with PyAV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np
from PIL import Image as Pillow

WIDTH, HEIGHT = 160, 96
BITS = 16
QUICK = {"libvpx": {"deadline": "realtime", "cpu-used": "8"}, "libx264": {"preset": "superfast"}}
Pairs = tuple[tuple[str, str], ...]
SECOND = list(range(0, 200, 25))  # the frames at full seconds of a clip of eight seconds


def numbered(number: int) -> np.ndarray:
    """A frame, uint8 `[96, 160, 3]`: the number in bars at the top, four colours below."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            pixels[: HEIGHT // 3, bit * 10 : bit * 10 + 10] = 255
    for k, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]):
        pixels[HEIGHT // 3 :, k * 40 : k * 40 + 40] = colour
    return pixels


def number_of(image: Pillow.Image) -> int:
    """What the bars say."""
    grey = np.asarray(image.convert("L"))
    row = grey[grey.shape[0] // 6]
    return sum(int(row[int((bit + 0.5) * len(row) / BITS)] > 128) << bit for bit in range(BITS))


def numbers_of(images: Sequence[Pillow.Image]) -> list[int]:
    return [number_of(image) for image in images]


def make_clip(
    form: str,
    codec: str,
    numbers: Sequence[int] = range(200),
    *,
    stamps: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    aspect: Fraction | None = None,
    matrix: Sequence[int] | None = None,
    codec_tag: str | None = None,
    frames: Sequence[np.ndarray] | None = None,
) -> bytes:
    """A clip of 25 frames a second, or with these stamps in units of `time_base`; encoded once for equal arguments."""
    own, of_container = (tuple((given or {}).items()) for given in (options, container_options))
    times, turned = (None if given is None else tuple(given) for given in (stamps, matrix))
    arguments = (form, codec, times, time_base, own, of_container, pix_fmt, aspect, turned, codec_tag)
    return _numbered_clip(tuple(numbers), *arguments) if frames is None else _encode(frames, *arguments)


@cache
def _numbered_clip(numbers: tuple[int, ...], *arguments: Any) -> bytes:
    return _encode([numbered(number) for number in numbers], *arguments)


def _encode(
    pixels: Sequence[np.ndarray], form: str, codec: str, stamps: Sequence[int] | None, time_base: Fraction,
    options: Pairs, container_options: Pairs, pix_fmt: str, aspect: Fraction | None, matrix: Sequence[int] | None,
    codec_tag: str | None,
) -> bytes:  # fmt: skip
    out = io.BytesIO()
    with av.open(out, "w", format=form, options=dict(container_options)) as container:
        quick = QUICK.get(codec, {})
        stream = container.add_stream(codec, rate=25, options={**quick, **dict(options)})
        stream.codec_context.thread_count = 1  # several threads on shared cores are slower
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if codec in ("mpeg4", "mpeg2video", "mpeg1video", "wmv2"):
            stream.bit_rate = 2_000_000
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if codec_tag is not None:
            stream.codec_context.codec_tag = codec_tag
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if stamps is not None:
            stream.codec_context.time_base = time_base
        for k, values in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(values, format="rgba" if values.shape[2] == 4 else "rgb24")
            frame.pts, frame.time_base = (k if stamps is None else stamps[k]), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()
