"""Fifty backchannels over an answer: the page gets quieter and plays on; held-out questions stop it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.serve.running import Running
from tests.serve.web.backchannels import RATE, RUN, backchannels, in_a_room, steps
from tests.serve.web.chromium import Page
from tests.serve.web.test_talk import JS
from tests.speech.recordings import questions, recording
from vita.speech.vad import SileroVad, load_vad
from vita.speech.voice import Voice

pytestmark = pytest.mark.slow  # a browser


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    return load_vad()


def decided(page: Page, clips: list[list[tuple[str, float]]]) -> list[list[str]]:
    """What the page does in each clip."""
    body = f"const clips = {json.dumps(clips)}; {RUN}"
    found: Any = page.js(JS.format(name="BargeIn", module="talk/barge_in.js", body=body))
    return list(found)


def test_fifty_backchannels_stop_no_answer(served: Running, page: Page, vad: SileroVad, espeak: Voice) -> None:
    page.open(served.url)
    found = decided(page, [steps(clip, vad) for clip in backchannels(espeak)])
    assert len(found) == 50 and [clip for clip in found if "stop" in clip] == []
    assert all(clip == ["duck", "restore"] for clip in found), "each is heard, and the volume comes back"


def test_questions_stop_the_answer(served: Running, page: Page, vad: SileroVad) -> None:
    page.open(served.url)
    clips = [steps(in_a_room(recording(name, RATE), seed=n), vad) for n, name in enumerate(questions(50))]
    found = decided(page, clips)
    assert len(found) >= 36 and all("stop" in clip for clip in found)
