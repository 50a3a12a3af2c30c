"""A recorded terminal as an animated SVG: what it shows, when, and that it needs nothing besides itself."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pyte
import pytest
from scripts.recording import HOLD, LONGEST_WAIT, Frame, Recorder, draw, retime

TEXT = "{http://www.w3.org/2000/svg}text"


@pytest.fixture
def frames() -> list[Frame]:
    """A prompt, typed text after 1 s, an answer below it after another 60 s."""
    screen = pyte.Screen(20, 3)
    stream, recorder = pyte.Stream(screen), Recorder()
    for piece in ("\x1b[1;36m> \x1b[0m", "a < b?", "\r\nyes \x1b[7mno\x1b[0m"):
        stream.feed(piece)
        recorder(screen)
    times = (100.0, 101.0, 161.0)
    return [Frame(at, f.rows, f.cursor) for at, f in zip(times, recorder.frames, strict=True)]


def test_long_waits_are_shortened_and_quick_changes_are_one(frames: list[Frame]) -> None:
    assert [frame.at for frame in retime(frames)] == [0.0, 1.0, 1.0 + LONGEST_WAIT]
    quick = [Frame(100.0 + n / 1000, f.rows, f.cursor) for n, f in enumerate(frames)]
    assert [(frame.at, frame.rows) for frame in retime(quick)] == [(0.0, frames[2].rows)]


def test_each_row_is_shown_while_the_screen_had_it(frames: list[Frame]) -> None:
    svg = draw(frames, 20, 3, "a & b")
    root, seconds = ElementTree.fromstring(svg), 1 + LONGEST_WAIT + HOLD
    texts = [(element.text, element.get("class")) for element in root.iter(TEXT)]
    assert texts == [("a & b", None), (">", "b"), (">", "b"), ("a < b?", None), ("yes", None), ("no", None)]
    classes = [group.get("class", "").split() for group in root.iter("{http://www.w3.org/2000/svg}g")]
    assert [kind for kind, _ in classes] == ["v", "l", "l"], "without animation the last screen is seen"
    rules = dict(re.findall(r"@keyframes (k\d+)\{(.*?)\}(?=\.k)", svg))
    first, typed, answer = (rules[name] for _, name in classes)
    assert first == f"0.00%{{visibility:visible}}{100 / seconds:.2f}%{{visibility:hidden}}"
    assert typed.startswith(f"0%{{visibility:hidden}}{100 / seconds:.2f}%{{visibility:visible}}")
    assert answer.startswith(f"0%{{visibility:hidden}}{100 * (1 + LONGEST_WAIT) / seconds:.2f}%")
    assert "prefers-reduced-motion" in svg
    assert re.findall(r"https?:[^\"']*", svg) == ["http://www.w3.org/2000/svg"] and "<script" not in svg
