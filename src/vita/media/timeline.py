"""Times of video frames from their time stamps, which may repeat, jump back or be wrong."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

LONGEST_GAP = 86_400.0  # seconds; a frame that would be shown longer than a day has a wrong stamp
REORDERED = 16  # frames; the most that a codec reorders, so the farthest that stamps fall without a jump
OUTLIERS = 3  # frames in a row whose stamps are passed over if the next one fits again
SLOWEST_RATE = 1 / LONGEST_GAP  # frames per second
USUAL_RATE = 25.0  # what FFmpeg takes for a bare stream


def frame_times(stamps: Sequence[float | None], rate: float = 0.0) -> list[float]:
    """When each frame is shown.

    Stamps that jump back start a joined recording: they go on where those before it ended. Stamps in decoding order
    (AVI with B-frames) are sorted. Frames of one stamp share the time until the next one. A stamp far from both
    neighbours is passed over.

    Args:
        stamps: in seconds, one for every frame in the order shown; None: the frame has none.
        rate: frames per second the header states, used where no stamps are; 0: not stated.

    Returns:
        Seconds from the first frame, ascending.
    """
    known = [stamp for stamp in stamps if stamp is not None]
    step = _usual_step(known, rate)
    if len(known) < 2 or max(known) <= min(known):
        return [k * step for k in range(len(stamps))]
    cleaned = _without_outliers(_filled(stamps), step)
    times: list[float] = []
    start = 0.0
    for segment in _segments(cleaned, step):
        own_step = _usual_step(segment, 1.0 / step)
        times += [start + time for time in _segment_times(segment, own_step)]
        start = times[-1] + own_step
    return times


def _usual_step(known: Sequence[float], rate: float) -> float:
    """Seconds that most frames are shown: the median of the rises, else what the header states."""
    rises = [b - a for a, b in pairwise(sorted(known)) if b > a]
    if rises:
        return statistics.median_low(rises)
    return 1.0 / (rate if rate >= SLOWEST_RATE else USUAL_RATE)


def _filled(stamps: Sequence[float | None]) -> list[float]:
    """With the stamp before in place of a missing one."""
    last = next(stamp for stamp in stamps if stamp is not None)
    out = []
    for stamp in stamps:
        last = last if stamp is None else stamp
        out.append(last)
    return out


def _without_outliers(stamps: Sequence[float], step: float) -> list[float]:
    """With the last good stamp in place of up to three that are far away, if the next one is near again."""
    near = REORDERED * step
    out = list(stamps[:1])
    k = 1
    while k < len(stamps):
        if abs(stamps[k] - out[-1]) > near:
            ahead = range(k + 1, min(k + 1 + OUTLIERS, len(stamps)))
            back = next((j for j in ahead if abs(stamps[j] - out[-1]) <= near), k)
            out += [out[-1]] * (back - k)
            k = back
        out.append(stamps[k])
        k += 1
    return out


def _segments(stamps: Sequence[float], step: float) -> list[list[float]]:
    """Cut where stamps jump back further than codecs reorder."""
    segments: list[list[float]] = [[stamps[0]]]
    highest = stamps[0]
    for stamp in stamps[1:]:
        if stamp < highest - REORDERED * step:
            segments.append([])
            highest = stamp
        highest = max(highest, stamp)
        segments[-1].append(stamp)
    return segments


def _segment_times(stamps: Sequence[float], step: float) -> list[float]:
    """Times from the first frame of one recording on, in seconds."""
    ordered = sorted(stamps)
    starts = [k for k in range(len(ordered)) if k == 0 or ordered[k] > ordered[k - 1]]
    ends = [*starts[1:], len(ordered)]
    gaps = [
        min(ordered[end] - ordered[start], LONGEST_GAP) if end < len(ordered) else (end - start) * step
        for start, end in zip(starts, ends, strict=True)
    ]
    each = [gap / (end - start) for gap, start, end in zip(gaps, starts, ends, strict=True)]
    usual = statistics.median_low(each)
    times: list[float] = []
    now = 0.0
    for start, end, gap, share in zip(starts, ends, gaps, each, strict=True):
        apart = min(share, usual) if end - start > 1 else share
        times += [now + k * apart for k in range(end - start)]
        now += gap if gap < LONGEST_GAP else (end - start) * apart if end - start > 1 else step
    return times
