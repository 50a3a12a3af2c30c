"""A decoded video frame as it is displayed: pixel aspect ratio, display matrix, transparency."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image as Pillow

from vita.errors import MediaError
from vita.types import MediaOptions

MOST_ASPECT = 10  # width over height of a pixel, or the inverse; beyond it the header is wrong
MAX_FRAMES_BYTES = 4 << 30  # of the frames of one video


def to_image(frame: Any, aspect: Fraction | None, options: MediaOptions, name: str) -> Pillow.Image:
    """The frame in RGB. The reference applies neither pixel aspect ratio nor display matrix, and drops alpha.

    Args:
        frame: a PyAV video frame.
        aspect: width over height of a pixel; None: not stated.
        options: limits, and whether to read as the reference does.
        name: of the file, for error sentences.

    Raises:
        MediaError: over the pixel limit, or not to be converted.
    """
    import av

    check_size(frame, options, name)
    try:
        if options.reference or not any(part.is_alpha for part in frame.format.components):
            image: Pillow.Image = frame.to_image()
        else:
            image = Pillow.fromarray(frame.to_ndarray(format="rgba"), "RGBA")
            image = Pillow.alpha_composite(Pillow.new("RGBA", image.size, "white"), image).convert("RGB")
    except (av.FFmpegError, MemoryError, ValueError) as error:
        raise MediaError(
            f"has a frame of {frame.width}x{frame.height} pixels that cannot be converted to RGB", where=name
        ) from error
    if options.reference:
        return image
    return _orient(_square_pixels(image, aspect, options), _display_matrix(frame))


def check_size(sized: Any, options: MediaOptions, name: str) -> None:
    """Hold a frame or a track to the pixel limit.

    Raises:
        MediaError: it has more pixels.
    """
    if sized.width * sized.height > options.policy.max_pixels:
        raise MediaError(
            f"has frames of {sized.width}x{sized.height} pixels, more than {options.policy.max_pixels / 1e6:g} million",
            where=name, fix="make the video smaller",
        )  # fmt: skip


def check_memory(count: int, size: tuple[int, int], name: str) -> None:
    """Refuse so many frames that would fill the memory: all of them are held in RGB at their full size.

    Args:
        count: frames to be kept.
        size: width and height of each.
        name: of the video, for the error.

    Raises:
        MediaError: they take more than `MAX_FRAMES_BYTES`.
    """
    needed = 3 * count * size[0] * size[1]
    if needed > MAX_FRAMES_BYTES:
        raise MediaError(
            f"{count:,} frames of {size[0]}x{size[1]} pixels take {needed / 1e9:.1f} GB of memory", where=name,
            fix="look at fewer frames (max_frames), or make the video smaller",
        )  # fmt: skip


def _square_pixels(image: Pillow.Image, aspect: Fraction | None, options: MediaOptions) -> Pillow.Image:
    """Stretched in width, as players do; in height where the result would be over the pixel limit."""
    if not aspect or aspect == 1 or not Fraction(1, MOST_ASPECT) <= aspect <= MOST_ASPECT:
        return image
    size = (max(1, round(image.width * aspect)), image.height)
    if size[0] * size[1] > options.policy.max_pixels:
        size = (image.width, max(1, round(image.height / aspect)))
    return image.resize(size, Pillow.Resampling.BICUBIC)


def _display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """(a, b, c, d): a pixel at (x, y) is shown at (a x + c y, b x + d y), but for an offset. None: as it is."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            values = np.frombuffer(memoryview(data)[:36], np.int32)  # three rows of three
            return int(values[0]), int(values[1]), int(values[3]), int(values[4])
    return None


def _orient(image: Pillow.Image, matrix: tuple[int, int, int, int] | None) -> Pillow.Image:
    """Rotated by the nearest quarter turn and mirrored as the matrix says; a singular matrix changes nothing."""
    if matrix is None:
        return image
    a, b, c, d = matrix
    if a * d - b * c == 0:
        return image
    if abs(a) + abs(d) >= abs(b) + abs(c):
        mirrored, upside_down = a < 0, d < 0
    else:
        image = image.transpose(Pillow.Transpose.TRANSPOSE)
        mirrored, upside_down = c < 0, b < 0
    if mirrored:
        image = image.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Pillow.Transpose.FLIP_TOP_BOTTOM) if upside_down else image
