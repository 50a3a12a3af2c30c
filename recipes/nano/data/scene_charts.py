"""Bar charts of two to five bars with short labels, with or without the values written on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from PIL import Image

from recipes.nano.data.asking import ask, title_question
from recipes.nano.data.canvas import Canvas
from recipes.nano.data.colors import Rgb, luminance
from recipes.nano.data.fonts import Face
from recipes.nano.data.grounds import Ground, pick_ink
from recipes.nano.data.labels import BETWEEN, COLORS, LOWEST, QA, SIDE, TALLEST, Split
from recipes.nano.data.phrases import answer, concluded, quoted
from recipes.nano.data.shapes import asked_pair, listed, marked, numbered
from recipes.nano.data.sizes import Size, unit_of
from recipes.nano.data.studio import Studio
from recipes.nano.data.turns import chart_turns
from recipes.nano.data.writing import width_of, write

_LONGEST_LABEL = {2: 7, 3: 5, 4: 4, 5: 3}
_MARGIN = 8


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    label: str
    value: int
    color: str
    rgb: Rgb


@dataclass(frozen=True)
class _Style:
    """How one chart is drawn; lengths are pixels of the picture."""

    face: Face
    em: float
    pen: tuple[str, Rgb]
    valued: bool
    gap: float
    size: Size = (SIDE, SIDE)
    unit: float = 1.0  # pixels of the picture that become one of a tile
    top: float = 0.0  # room above the bars, for a title
    inside: bool = False  # values stand on the bars
    rules: int = 0  # lines of a grid behind the bars
    faint: Rgb = (128, 128, 128)  # of the grid

    @property
    def margin(self) -> float:
        return _MARGIN * self.unit


def draw_chart(studio: Studio, rng: Random, split: Split, size: Size = (SIDE, SIDE)) -> tuple[Canvas, list[QA]]:
    """One picture of a chart with its questions."""
    while True:
        ground = studio.grounds.pick(rng, size, calm=0.75)
        pen = pick_ink(rng, ground, split)
        inks = [ink for ink in (pick_ink(rng, ground, split) for _ in range(5)) if ink]
        if pen and inks and ground.name not in ("colorful", "gradient"):
            break
    unit = unit_of(size)
    em = max(12.0, rng.uniform(17, 24 if size == (SIDE, SIDE) else 32) * unit)
    face = rng.choice(rng.choice(studio.letters.book.groups(split, False)))
    valued = rng.random() < 0.75
    tone = ground.tones[0]
    faint: Rgb = tuple((3 * t + p) // 4 for t, p in zip(tone, pen[1], strict=True))  # type: ignore[assignment]
    title = studio.words.phrase(rng, split, 1, longest=8) if rng.random() < 0.14 else ""
    style = _Style(
        face, em, pen, valued, rng.uniform(0.15, 0.5), size, unit, em * 1.25 if title else 0.0,
        valued and rng.random() < 0.25, rng.randint(2, 5) if rng.random() < 0.3 else 0, faint,
    )  # fmt: skip
    bars = _bars(studio, rng, split, inks)
    canvas = Canvas(ground.picture, dense=True)
    if title:
        room = size[0] - 2 * style.margin
        _text(studio, canvas, style, title, size[0] / 2, style.margin + em * 0.8, room, 0.5)
    upright = rng.random() < 0.62 or len(max((b.label for b in bars), key=len)) > 5
    (_upright if upright else _lying)(studio, canvas, bars, style)
    made = _questions(rng, split, bars, ground, valued)
    return canvas, [*made, title_question(rng, split, title)] if title else made


def imagined_bars(studio: Studio, rng: Random, split: Split) -> list[Bar]:
    """Bars that could stand in a chart."""
    return _bars(studio, rng, split, [(color, (0, 0, 0)) for color in rng.sample(COLORS, 5)])


def _bars(studio: Studio, rng: Random, split: Split, inks: list[tuple[str, Rgb]]) -> list[Bar]:
    """Bars with different labels, and a largest and a smallest that can be told."""
    count = rng.randint(2, 5)
    top = rng.choice((9, 20, 20, 50, 99))
    while True:
        values = [rng.randint(1, top) for _ in range(count)]
        high, low = sorted(values, reverse=True), sorted(values)
        step = max(1.0, 0.1 * high[0])
        if high[0] - high[1] >= step and low[1] - low[0] >= step:
            break
    labels: list[str] = []
    single = rng.random() < 0.4
    first = rng.choice("ABCEFGHJKLMNPQR")
    while len(labels) < count:
        if single:
            label = chr(ord(first) + len(labels))
        else:
            label = studio.words.phrase(rng, split, 1, longest=_LONGEST_LABEL[count])
        if label.casefold() not in [x.casefold() for x in labels]:
            labels.append(label)
    one = rng.choice(inks) if rng.random() < 0.5 else None
    return [Bar(x, v, *(one or inks[i % len(inks)])) for i, (x, v) in enumerate(zip(labels, values, strict=True))]


def _text(
    studio: Studio, canvas: Canvas, style: _Style, text: str, x: float, y: float, room: float, anchor: float
) -> None:
    """Writes text with its baseline at y; `anchor` 0, 0.5 or 1 puts its left, middle or right at x."""
    write(studio, canvas, style.face, style.em, style.pen, text, x, y, room, anchor)


def _fill(canvas: Canvas, edges: tuple[float, float, float, float], color: str, rgb: Rgb, rank: int = 0) -> None:
    left, top, right, bottom = (round(e) for e in edges)
    mask = Image.new("L", (max(1, right - left), max(1, bottom - top)), 255)
    canvas.stamp(mask, left, top, rgb, color, order=np.full((mask.height, mask.width), rank, np.uint8))


def _rank(bar: Bar, bars: list[Bar]) -> int:
    """The dense label of a bar's own patches."""
    values = [b.value for b in bars]
    return TALLEST if bar.value == max(values) else LOWEST if bar.value == min(values) else BETWEEN


def _grid(canvas: Canvas, style: _Style, edges: tuple[float, float, float, float], lying: bool) -> None:
    """Faint lines behind the bars, across the way they grow."""
    left, top, right, bottom = edges
    pen = max(1, round(style.unit))
    for k in range(style.rules):
        share = (k + 1) / style.rules
        x, y = round(left + (right - left) * share), round(bottom - (bottom - top) * share)
        box = (x, round(top), x + pen, round(bottom)) if lying else (round(left), y, round(right), y + pen)
        canvas.picture.paste(style.faint, box)


def _on_bar(style: _Style, bar: Bar) -> _Style:
    """The style of a value that stands on its bar: black or white, whichever can be read there."""
    dark = luminance(bar.rgb) > 128
    return replace(style, pen=("black", (0, 0, 0)) if dark else ("white", (255, 255, 255)))


def _upright(studio: Studio, canvas: Canvas, bars: list[Bar], style: _Style) -> None:
    margin, unit, (width, height) = style.margin, style.unit, style.size
    floor = height - margin - style.em * 1.15
    pitch = (width - 2 * margin) / len(bars)
    half = min(pitch * (1 - style.gap) / 2, max(30 * unit, 0.16 * width if width < 2 * height else 0))
    inside = style.inside and half > 0.7 * style.em
    ceiling = margin + style.top + (style.em * 1.15 if style.valued and not inside else 0)
    highest = max(b.value for b in bars)
    _grid(canvas, style, (margin, ceiling, width - margin, floor), False)
    for k, bar in enumerate(bars):
        middle = margin + pitch * (k + 0.5)
        top = floor - max(2.0 * unit, (floor - ceiling) * bar.value / highest)
        _fill(canvas, (middle - half, top, middle + half, floor), bar.color, bar.rgb, _rank(bar, bars))
        _text(studio, canvas, style, bar.label, middle, floor + style.em, pitch - 5 * unit, 0.5)
        if inside and floor - top > 1.2 * style.em:
            value = (_on_bar(style, bar), top + style.em * 0.95, 2 * half - 2 * unit)
        else:
            value = (style, top - 3 * unit, pitch - 3 * unit)
        if style.valued:
            _text(studio, canvas, value[0], str(bar.value), middle, value[1], value[2], 0.5)
    _fill(canvas, (margin, floor, width - margin, floor + 2 * unit), *style.pen)


def _lying(studio: Studio, canvas: Canvas, bars: list[Bar], style: _Style) -> None:
    margin, unit, (width, height) = style.margin, style.unit, style.size
    widths = [width_of(studio, style.face, b.label, style.em) for b in bars]
    wall = margin + min(max(widths), 70 * unit) + 5 * unit
    head = margin + style.top
    pitch = (height - margin - head) / len(bars)
    half = min(pitch * (1 - style.gap) / 2, max(22 * unit, 0.1 * height))
    inside = style.inside and half > 0.5 * style.em
    end = width - margin - (style.em * 1.4 if style.valued and not inside else 0)
    longest = max(b.value for b in bars)
    _grid(canvas, style, (wall, head, end, height - margin), True)
    for k, bar in enumerate(bars):
        middle = head + pitch * (k + 0.5)
        tip = wall + max(2.0 * unit, (end - wall) * bar.value / longest)
        _fill(canvas, (wall, middle - half, tip, middle + half), bar.color, bar.rgb, _rank(bar, bars))
        low = middle + style.em * 0.35
        _text(studio, canvas, style, bar.label, wall - 5 * unit, low, wall - 5 * unit, 1.0)
        if inside and tip - wall > 1.7 * style.em:
            _text(studio, canvas, _on_bar(style, bar), str(bar.value), tip - 4 * unit, low, tip - wall, 1.0)
        elif style.valued:
            _text(studio, canvas, style, str(bar.value), tip + 4 * unit, low, width - tip - 6 * unit, 0.0)
    _fill(canvas, (wall - 2 * unit, head, wall, height - margin), *style.pen)


def _parts(bars: list[Bar], valued: bool) -> list[str]:
    return [f"{quoted(b.label)} is {b.value}" if valued else quoted(b.label) for b in bars]


def _records(bars: list[Bar], asked: Bar) -> list[Bar]:
    """The bars that are larger, or smaller, than all before them in the list; the one asked for is the last."""
    sign = 1 if asked.value == max(b.value for b in bars) else -1
    found = bars[:1]
    for bar in bars[1:]:
        if sign * (bar.value - found[-1].value) > 0:
            found.append(bar)
    return found


def _marked(bars: list[Bar], asked: Bar, verdict: str, valued: bool) -> str:
    """Every bar; the last that is marked is the one asked for.

    Of values each is compared with the last that was marked, so that no mark depends on what the list has still to say.
    Where none are written, which is the tallest is seen and it alone is marked.
    """
    found = _records(bars, asked) if valued else [asked]
    names = marked(_parts(bars, valued), [int(bar in found) for bar in bars])
    return concluded("listed", verdict, list=listed(names))


def _ends(rng: Random, split: Split, bars: list[Bar], valued: bool) -> list[QA]:
    """The largest and the smallest bar."""
    ends = {"largest": max(bars, key=lambda b: b.value), "smallest": min(bars, key=lambda b: b.value)}
    return [
        QA(ask(rng, split, kind), _marked(bars, bar, answer(kind, text=quoted(bar.label)), valued), kind,
           quoted(bar.label))
        for kind, bar in ends.items()
    ]  # fmt: skip


def _told(bars: list[Bar], of: Callable[[Bar], object], verdict: str, *asked: Bar) -> str:
    """Every bar with what it is, those asked for numbered as the question names them, then what follows."""
    names = marked([quoted(b.label) for b in bars], numbered(bars, asked))
    told = listed([f"{name} is {of(b)}" for name, b in zip(names, bars, strict=True)])
    return concluded("listed", verdict, list=told)


def bar_questions(rng: Random, split: Split, bars: list[Bar], valued: bool) -> list[QA]:
    """About the bars, whether their values are written on them or not."""
    shown = rng.choice(bars)
    count = str(len(bars))
    color = answer("bar_color", text=quoted(shown.label), color=shown.color)
    rest = [
        QA(ask(rng, split, "bars"), answer("bars", count=count), "bars", count),
        *_ends(rng, split, bars, valued),
        _compare(rng, split, bars, valued),
        QA(
            ask(rng, split, "bar_color", label=shown.label), _told(bars, lambda b: b.color, color, shown),
            "bar_color", shown.color,
        ),
    ]  # fmt: skip
    for bar in rng.sample(bars, min(3, len(bars))) if valued else ():
        said = _told(bars, lambda b: b.value, answer("value", text=quoted(bar.label), count=bar.value), bar)
        rest.append(QA(ask(rng, split, "value", label=bar.label), said, "value", str(bar.value)))
    return rest


def _questions(rng: Random, split: Split, bars: list[Bar], ground: Ground, valued: bool) -> list[QA]:
    count = str(len(bars))
    parts = _parts(bars, valued)
    rest = [*bar_questions(rng, split, bars, valued), ground.qa(rng, split)]
    rng.shuffle(rest)
    caption = answer("caption_chart", count=count, list=listed(parts))
    made = QA(ask(rng, split, "caption"), caption, "caption_chart", "|".join([f"{count} bars", *parts]))
    return [made, *rest[:7], *(_turns(rng, split, rest, bars, valued) if rng.random() < 0.5 else ())]


def _turns(rng: Random, split: Split, asked: list[QA], bars: list[Bar], valued: bool) -> list[QA]:
    """A second question about the largest or smallest bar, or about the other end."""
    ends = {q.kind: q for q in asked if q.kind in ("largest", "smallest")}
    told = {}
    for kind, other in (("largest", "smallest"), ("smallest", "largest")):
        bar = next(b for b in bars if quoted(b.label) == ends[kind].key)
        text = quoted(bar.label)
        told[ends[kind].key] = {
            other: (ends[other].answer, ends[other].key),
            "color": (answer("bar_color", text=text, color=bar.color), bar.color),
        } | ({"value": (answer("value", text=text, count=bar.value), str(bar.value))} if valued else {})
    return chart_turns(rng, split, [*ends.values()], told)


def _compare(rng: Random, split: Split, bars: list[Bar], valued: bool) -> QA:
    """Whether one bar is larger than another; both answers alike."""
    high = max(b.value for b in bars)
    pairs = [(a, b) for a in bars for b in bars if a.value - b.value >= max(1.0, 0.1 * high)]
    large, small = rng.choice(pairs)
    truth = rng.random() < 0.5
    one, other = (large, small) if truth else (small, large)
    side = "yes" if truth else "no"
    text = answer(f"compare_{side}", one=quoted(one.label), other=quoted(other.label))
    if valued:
        told = _told(bars, lambda b: b.value, text, one, other)
        text = asked_pair(quoted(one.label), quoted(other.label)) + told
    return QA(ask(rng, split, "compare", one=one.label, other=other.label), text, "compare", side)
