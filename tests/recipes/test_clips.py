"""Clips show what their answers say."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from recipes.nano.data.clips import KINDS, Clip, render_clip


@cache
def clips() -> list[Clip]:
    """Drawn by the first test that asks, not when tests are collected."""
    return [render_clip(k, "train", 5) for k in range(80)]


def moved(clip: Clip) -> np.ndarray:
    """Where the pixels changed between the first frame and the last: bool `[224, 224]`."""
    return np.abs(clip.frames[0].astype(int) - clip.frames[-1]).sum(-1) > 60


def test_all_kinds_are_drawn_and_movement_most() -> None:
    counts = Counter(clip.kind for clip in clips())
    assert set(counts) == set(KINDS) and min(counts.values()) >= 8 and counts.most_common(1)[0][0] == "move"


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_questions_fit(kind: str) -> None:
    for clip in (c for c in clips() if c.kind == kind):
        assert clip.frames.dtype == np.uint8 and clip.frames.shape[1:] == (224, 224, 3)
        assert 4 <= len(clip.frames) <= 16 and moved(clip).any(), "something happens"
        assert clip.qa[0].kind == "clip_caption" and len(clip.qa) >= 3
        for qa in clip.qa:
            assert all(part in qa.answer for part in qa.key.split("|")), qa


def test_what_moves_does_move_that_way() -> None:
    for clip in (c for c in clips() if c.kind == "move"):
        way = next(qa.key for qa in clip.qa if qa.kind == "direction")
        first, last = (np.abs(clip.frames[k].astype(int) - np.median(clip.frames, 0)).sum(-1) > 90 for k in (0, -1))
        if first.sum() < 30 or last.sum() < 30:
            continue  # the mover hides what it left, so the median shows it
        (y0, x0), (y1, x1) = (np.argwhere(m).mean(0) for m in (first, last))
        shift = {"to the right": x1 - x0, "to the left": x0 - x1, "up": y0 - y1, "down": y1 - y0}[way]
        assert shift > 15, (way, shift)


def test_where_it_moves_follows_from_where_it_was_and_is() -> None:
    for clip in (c for c in clips() if c.kind == "move"):
        qa = next(qa for qa in clip.qa if qa.kind == "direction")
        first, then, way = re.fullmatch(
            r"First the .+ is (?:at|on) the (\w+), then (?:at|on) the (\w+): (.+)", qa.answer
        ).groups()  # type: ignore[union-attr]
        sides = {"to the right": ("left", "right"), "to the left": ("right", "left"), "up": ("bottom", "top")}
        assert (first, then) == sides.get(qa.key, ("top", "bottom")) and way.endswith(f"moves {qa.key}."), qa


def test_the_same_number_is_the_same_clip_and_splits_differ() -> None:
    again = render_clip(3, "train", 5)
    assert np.array_equal(again.frames, clips()[3].frames) and again.qa == clips()[3].qa
    assert not np.array_equal(render_clip(3, "heldout", 5).frames[:4], again.frames[:4])
