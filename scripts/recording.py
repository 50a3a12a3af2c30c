"""Draw a recorded terminal as an SVG that CSS animates: no script, no font and no file besides it.

Each row of the screen is drawn once for every content that it has, and shown while it has it. What does not animate, or
a reader who asked for less motion, gets the last screen.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import groupby, pairwise

from pyte import Screen
from pyte.screens import Char

FONT_SIZE, CHARACTER, ROW = 14.0, 8.4, 19.0  # pixels
MARGIN, TITLE = 16.0, 40.0
BACKGROUND, FOREGROUND = "#1e1f29", "#d8dae4"
COLOURS = {
    "black": "#3a3c4e", "red": "#ff6e6e", "green": "#69d68c", "brown": "#e6c36a", "blue": "#7aa2f7",
    "magenta": "#c792ea", "cyan": "#5fd0e0", "white": "#d8dae4",
}  # fmt: skip
LONGEST_WAIT = 1.5  # seconds: what takes longer is shortened to it
HOLD = 5.0  # seconds that the last screen stays
SHORTEST = 0.02  # seconds: changes that follow each other faster are one


@dataclass(frozen=True)
class Run:
    """Neighbouring characters that look alike.

    Attributes:
        column: of the first one.
        text: what is shown.
        fg, bg: colours; bg is empty where nothing is drawn behind the text.
        bold: whether it is.
    """

    column: int
    text: str
    fg: str
    bg: str
    bold: bool


Row = tuple[Run, ...]


@dataclass(frozen=True)
class Frame:
    """The screen at a time in seconds; the cursor is a column and a row, or None while it is hidden."""

    at: float
    rows: tuple[Row, ...]
    cursor: tuple[int, int] | None


@dataclass
class Recorder:
    """Keeps a frame for every change of a screen."""

    frames: list[Frame] = field(default_factory=list)

    def __call__(self, screen: Screen) -> None:
        """Note what the screen shows now."""
        rows = tuple(tuple(read_row(screen, number)) for number in range(screen.lines))
        cursor = None if screen.cursor.hidden else (screen.cursor.x, screen.cursor.y)
        self.frames.append(Frame(time.monotonic(), rows, cursor))


def read_row(screen: Screen, number: int) -> Iterator[Run]:
    """The runs of a row, without the empty ones."""
    cells = [(column, screen.buffer[number][column]) for column in range(screen.columns)]
    for (fg, bg, bold), group in groupby(cells, key=lambda cell: look_of(cell[1])):
        run = list(group)
        text = "".join(character.data for _, character in run)
        if text.strip() or bg:
            yield Run(run[0][0], text if bg else text.rstrip(), fg, bg, bold)


def look_of(character: Char) -> tuple[str, str, bool]:
    """Foreground, background (empty: none) and weight of a character."""
    fg, bg = colour(character.fg, FOREGROUND), colour(character.bg, "")
    if character.reverse:
        fg, bg = bg or BACKGROUND, fg
    return fg, bg, character.bold


def colour(name: str, default: str) -> str:
    """A colour as CSS writes it."""
    return default if name == "default" else COLOURS.get(name.removeprefix("bright"), f"#{name}")


def retime(frames: Iterable[Frame]) -> list[Frame]:
    """From second 0, long waits shortened, and one frame for changes that follow each other at once."""
    now, last, kept = 0.0, None, list[Frame]()
    for frame in frames:
        now += 0.0 if last is None else min(frame.at - last, LONGEST_WAIT)
        last = frame.at
        if kept and now - kept[-1].at < SHORTEST:
            kept[-1] = Frame(kept[-1].at, frame.rows, frame.cursor)
        else:
            kept.append(Frame(now, frame.rows, frame.cursor))
    return kept


def spans_of(values: list[tuple[float, object]], end: float) -> Iterator[tuple[float, float, object]]:
    """Begin, end and value of each stretch in which a value stays the same."""
    changes = [key_of(group) for _, group in groupby(values, key=lambda item: item[1])]
    for (begin, value), (until, _) in pairwise([*changes, (end, None)]):
        yield begin, until, value


def key_of(group: Iterator[tuple[float, object]]) -> tuple[float, object]:
    return next(group)


class Animation:
    """The style sheet of a drawing: one animation for each stretch of time in which something is shown."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.names: dict[tuple[str, str], str] = {}

    def attributes(self, begin: float, end: float) -> str:
        """Of an element that is shown from second `begin` to second `end`."""
        last = end >= self.seconds
        if begin <= 0 and last:
            return ""
        key = (f"{100 * begin / self.seconds:.2f}", "" if last else f"{100 * end / self.seconds:.2f}")
        name = self.names.setdefault(key, f"k{len(self.names)}")
        return f' class="{"l" if last else "v"} {name}"'

    def style(self) -> str:
        """The rules."""
        rules = [
            f".v,.l{{animation:{self.seconds:.2f}s step-end infinite}}.v{{visibility:hidden}}",
            "@media(prefers-reduced-motion:reduce){.v,.l{animation:none!important}}",
        ]
        for (begin, end), name in self.names.items():
            hidden = "" if float(begin) == 0 else "0%{visibility:hidden}"
            after = f"{end}%{{visibility:hidden}}" if end else "to{visibility:visible}"
            rules.append(f"@keyframes {name}{{{hidden}{begin}%{{visibility:visible}}{after}}}")
            rules.append(f".{name}{{animation-name:{name}}}")
        return "".join(rules)


def draw(frames: list[Frame], columns: int, rows: int, title: str) -> str:
    """The SVG of a recording, which starts over when it has ended."""
    frames = retime(frames)
    seconds = frames[-1].at + HOLD
    animation = Animation(seconds)
    shapes: list[str] = []
    for number in range(rows):
        for begin, end, runs in spans_of([(frame.at, frame.rows[number]) for frame in frames], seconds):
            if runs:
                drawn = "".join(draw_run(run, number) for run in runs)  # type: ignore[attr-defined]
                shapes.append(f"<g{animation.attributes(begin, end)}>{drawn}</g>")
    for begin, end, cursor in spans_of([(frame.at, frame.cursor) for frame in frames], seconds):
        if cursor is not None:
            x, y = place(*cursor)  # type: ignore[misc]
            shapes.append(
                f'<rect{animation.attributes(begin, end)} x="{x:g}" y="{y:g}" width="{CHARACTER:g}" height="{ROW:g}" '
                f'fill="{FOREGROUND}" opacity=".55"/>'
            )
    width, height = 2 * MARGIN + columns * CHARACTER, TITLE + rows * ROW + MARGIN
    font = f"font:{FONT_SIZE:g}px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;white-space:pre"
    lights = "".join(
        f'<circle cx="{22 + 22 * number}" cy="20" r="6.5" fill="{fill}"/>'
        for number, fill in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(title)}">\n'
        f"<style>text{{{font}}}.b{{font-weight:bold}}{animation.style()}</style>\n"
        f'<rect width="100%" height="100%" rx="9" fill="{BACKGROUND}"/>{lights}\n'
        f'<text x="{width / 2:g}" y="25" fill="{FOREGROUND}" text-anchor="middle">{escape(title)}</text>\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


def draw_run(run: Run, row: int) -> str:
    """The shapes of a run; `textLength` keeps it on the grid whatever font is used."""
    x, y = place(run.column, row)
    width = len(run.text) * CHARACTER
    out = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{ROW:g}" fill="{run.bg}"/>' if run.bg else ""
    text = run.text.strip(" ")
    if not text:
        return out
    x += (len(run.text) - len(run.text.lstrip(" "))) * CHARACTER
    weight = ' class="b"' if run.bold else ""
    return (
        f'{out}<text x="{x:g}" y="{y + 14:g}" fill="{run.fg}"{weight} textLength="{len(text) * CHARACTER:g}">'
        f"{escape(text, quote=False)}</text>"
    )


def place(column: int, row: int) -> tuple[float, float]:
    """Pixel position of the upper left corner of a character."""
    return round(MARGIN + column * CHARACTER, 2), round(TITLE + row * ROW, 2)
