"""Lines of text put on a canvas by their baseline, and words wrapped into lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from recipes.nano.data.canvas import Box, Canvas
from recipes.nano.data.colors import Rgb
from recipes.nano.data.fonts import Face
from recipes.nano.data.studio import Studio

Ink = tuple[str, Rgb]  # a colour's name and value


def width_of(studio: Studio, face: Face, text: str, em: float) -> float:
    """Pixels that the text's ink takes at this size."""
    return studio.letters.natural(face, 40, text)[0] * em / 40


def write(
    studio: Studio, canvas: Canvas, face: Face, em: float, ink: Ink, text: str, x: float, y: float,
    room: float = math.inf, anchor: float = 0.0, before: int = 0,
) -> Box:  # fmt: skip
    """Writes text with its baseline at y and returns the box of its ink.

    Args:
        anchor: 0, 0.5 or 1 puts its left, middle or right at x.
        room: a wider line is squeezed into it.
        before: letters and spaces of the lines above, if the text goes on from there.
    """
    line = studio.letters.line(face, text, em, min(1.0, room / width_of(studio, face, text, em)))
    left = round(x - anchor * line.mask.width)
    top = round(y + studio.letters.descent(face, text, em) - line.mask.height)
    order = line.order + np.uint8(before)
    canvas.stamp(line.mask, left, top, ink[1], ink[0], chars=line.chars, order=order)
    return Box(left, top, left + line.mask.width, top + line.mask.height)


def write_lines(
    studio: Studio, canvas: Canvas, face: Face, em: float, ink: Ink, lines: Sequence[str], frame: Box,
    anchor: float = 0.5, leading: float = 1.25,
) -> Box:  # fmt: skip
    """Writes lines of one text in the middle of the frame's height; returns the box of all of them."""
    high = em * (0.75 + leading * (len(lines) - 1))
    y = frame.top + (frame.height - high) / 2 + em * 0.75
    x = frame.left + frame.width * anchor
    boxes, before = [], 0
    for line in lines:
        boxes.append(write(studio, canvas, face, em, ink, line, x, y, frame.width, anchor, before))
        before += len(line) + 1
        y += em * leading
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return Box(min(lefts), min(tops), max(rights), max(bottoms))


def wrapped(studio: Studio, face: Face, em: float, text: str, room: float) -> list[str]:
    """The text in lines of at most `room` pixels, one word at least on each."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and width_of(studio, face, f"{lines[-1]} {word}", em) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def fitting(studio: Studio, face: Face, lines: Sequence[str], frame: Box, leading: float = 1.25) -> float:
    """The largest font size at which the lines fit the frame."""
    widest = max(width_of(studio, face, line, 40) for line in lines)
    return min(40 * frame.width / widest, frame.height / (1.05 + leading * (len(lines) - 1)))
