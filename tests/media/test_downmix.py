"""Mixing down to mono: every channel is heard, whatever the others do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vita.media.audio import load_audio
from vita.types import Audio, MediaOptions

RATE = 16000


def tone(pitch: float, seconds: float = 3.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def heard(*channels: np.ndarray, options: MediaOptions | None = None) -> np.ndarray:
    return load_audio(Audio(np.stack(channels, axis=1), sample_rate=RATE), options).samples


def level(samples: np.ndarray, against: np.ndarray) -> float:
    """Loudness in dB relative to `against`."""
    return float(10 * np.log10(np.mean(samples**2) / np.mean(against**2)))


def test_opposite_phase_is_heard() -> None:
    voice = tone(500)
    assert np.array_equal(np.abs(heard(voice, -voice)), np.abs(voice))
    assert level(heard(voice, -0.8 * voice), voice) > -1
    assert level(heard(voice, -voice, voice, -voice), voice) > -1


@pytest.mark.parametrize("count", [3, 4, 5, 6, 8])
@pytest.mark.parametrize("place", [0, 2])
def test_a_voice_in_one_of_many_channels_is_heard(count: int, place: int) -> None:
    voice = tone(500)
    noise = np.random.default_rng(3).standard_normal((count, voice.size)).astype(np.float32) * 1e-3
    noise[place] += voice
    assert level(heard(*noise), voice) > -1


def test_the_voice_may_move_and_the_phase_may_turn() -> None:
    voice, silence = tone(500, 1.0), np.zeros(RATE, np.float32)
    channels = np.zeros((6, 3 * RATE), np.float32)
    for second, place in enumerate((2, 0, 5)):
        channels[place, second * RATE : (second + 1) * RATE] = voice
    mixed = heard(*channels)
    assert all(level(mixed[s * RATE : (s + 1) * RATE], voice) > -1 for s in range(3))
    turning = heard(np.concatenate([voice, voice, silence]), np.concatenate([voice, -voice, silence]))
    assert level(turning[:RATE], voice) > -1 and level(turning[RATE : 2 * RATE], voice) > -1
    assert np.array_equal(turning[2 * RATE + 200 :], silence[200:])


def test_a_change_of_channel_does_not_click() -> None:
    voice = tone(200, 1.0)
    mixed = heard(np.concatenate([voice, voice]), np.concatenate([voice, -voice]))
    assert np.abs(np.diff(mixed)).max() < 2 * np.abs(np.diff(voice)).max()


@pytest.mark.parametrize("count", [2, 4, 6])
def test_usual_channels_are_mixed_evenly(count: int) -> None:
    channels = [tone(300 + 170 * k) for k in range(count)]
    assert np.allclose(heard(*channels), np.mean(channels, axis=0), atol=1e-6)


def test_the_reference_takes_the_left_channel() -> None:
    left, right = tone(300), -tone(300)
    assert np.array_equal(heard(left, right, options=MediaOptions(reference=True)), left)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(1, 30_000), st.integers(0, 2**31))
def test_no_mix_is_louder_than_its_loudest_channel_or_lost(count: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    voice = rng.standard_normal(size).astype(np.float32)
    gains = rng.uniform(-1, 1, count).astype(np.float32)
    gains[0] = 1
    channels = gains[:, None] * voice
    mixed = heard(*channels)
    assert np.abs(mixed).max() <= np.abs(channels).max() * 1.0001
    assert level(mixed, voice) > -9.1
