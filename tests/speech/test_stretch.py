"""Change of speed: the duration is exact, the pitch stays, and pieces of any size give the same audio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vita.speech.stretch import Stretch


def tone(seconds: float, hertz: float = 220.0) -> np.ndarray:
    t = np.arange(int(24_000 * seconds)) / 24_000
    return (0.5 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


@given(st.floats(0.25, 4), st.lists(st.integers(0, 5000), max_size=8))
@settings(max_examples=30)
def test_the_duration_is_exact_and_pieces_of_any_size_are_the_same(speed: float, sizes: list[int]) -> None:
    audio = tone(sum(sizes) / 24_000 + 0.01)
    pieces, at = [], 0
    for size in [*sizes, len(audio)]:
        pieces.append(audio[at : at + size])
        at += size
    got = np.concatenate(list(Stretch(speed).stretched(pieces)))
    assert len(got) == round(len(audio) / speed)
    assert np.array_equal(got, np.concatenate(list(Stretch(speed).stretched([audio]))))


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.8, 1.25, 2.0, 4.0])
def test_the_pitch_stays_and_there_is_no_jump(speed: float) -> None:
    audio = tone(2.0)
    got = np.concatenate(list(Stretch(speed).stretched([audio])))
    inner = got[1000:-1500]
    spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner))))
    peak = np.argmax(spectrum) * 24_000 / len(inner)
    assert peak == pytest.approx(220, abs=3)
    assert 0.3 < np.abs(inner).max() <= 0.55
    assert np.abs(np.diff(inner)).max() < 2 * np.abs(np.diff(audio)).max()


def test_no_audio_stays_no_audio() -> None:
    assert sum(map(len, Stretch(2.0).stretched([]))) == 0
    stretch = Stretch(0.5)
    stretch.push(tone(1.0))
    stretch.reset()
    assert len(stretch.flush()) == 0
