"""Times of frames from stamps that repeat, jump or are wrong."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.media.timeline import frame_times

STEP = 0.04


def steady(count: int, start: float = 0.0) -> list[float]:
    return [start + STEP * k for k in range(count)]


@given(st.lists(st.one_of(st.none(), st.floats(-1e15, 1e15)), min_size=1, max_size=200), st.floats(0, 1e6))
def test_times_ascend_from_zero_one_for_each_frame(stamps: list[float | None], rate: float) -> None:
    times = frame_times(stamps, rate)
    assert len(times) == len(stamps) and times[0] == 0
    assert all(math.isfinite(time) for time in times)
    assert all(b >= a for a, b in pairwise(times))


@pytest.mark.parametrize("start", [0.0, 1.48, -0.52, 26.5 * 3600])
def test_good_stamps_are_kept(start: float) -> None:
    assert frame_times(steady(200, start)) == pytest.approx(steady(200))


@pytest.mark.parametrize("offset", [0.0, 0.5, -3.0])
def test_stamps_that_jump_back_go_on(offset: float) -> None:
    assert frame_times(steady(200, 10) + steady(150, 10 + offset)) == pytest.approx(steady(350), abs=1e-6)


def test_a_pause_of_minutes_is_kept_and_one_of_days_is_not() -> None:
    assert frame_times([0, 0.04, 300, 300.04]) == pytest.approx([0, 0.04, 300, 300.04])
    assert frame_times([0, 0.04, 1e6, 1e6 + 0.04]) == pytest.approx([0, 0.04, 0.08, 0.12])


@pytest.mark.parametrize("wrong", [0.0, 5000.0, 1e6, 1e14, -1e6])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_wrong_stamps_move_nothing_else(wrong: float, count: int) -> None:
    stamps = steady(200)
    stamps[100 : 100 + count] = [wrong] * count
    times = frame_times(stamps)
    assert times[:99] == pytest.approx(steady(200)[:99])
    assert times[100 + count :] == pytest.approx(steady(200)[100 + count :])


def test_stamps_in_decoding_order_are_sorted() -> None:
    decoding = [1, 4, 3, 5, 2, 7, 8, 6, 10, 9, 12, 11]
    assert frame_times([STEP * k for k in decoding]) == pytest.approx(steady(12))


def test_equal_stamps_share_the_time_until_the_next() -> None:
    assert frame_times([0, 0, 0.08, 0.08, 0.16, 0.16]) == pytest.approx(steady(6))
    assert frame_times([*steady(100), *([1e6] * 100)]) == pytest.approx(steady(200), abs=0.05)


def test_without_stamps_the_stated_rate_counts() -> None:
    assert frame_times([None] * 5, 10.0) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert frame_times([None] * 3) == pytest.approx([0, 0.04, 0.08])
    assert frame_times([7.0] * 3, 50.0) == pytest.approx([0, 0.02, 0.04])
    assert frame_times([]) == []
