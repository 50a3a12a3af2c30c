"""Sizes of filterbank frames and of what the audio encoder makes of them; computes nothing."""

from __future__ import annotations

from vita.config import FilterbankConfig

MIN_FRAMES = 7  # fewer give the encoder's convolutions no output


def token_count(frames: int) -> int:
    """Decoder tokens of T filterbank frames: `ceil(e / 2)` with `e = ((T-1)//2 - 1)//2`."""
    encoded = ((frames - 1) // 2 - 1) // 2 if frames >= MIN_FRAMES else 0
    return -(-encoded // 2)


def frame_sizes(config: FilterbankConfig) -> tuple[int, int]:
    """Samples of a frame and of a shift."""
    return int(config.sample_rate * config.frame_length * 0.001), int(config.sample_rate * config.frame_shift * 0.001)


def min_samples(config: FilterbankConfig) -> int:
    """Samples of the shortest audio that gives the encoder one frame."""
    length, shift = frame_sizes(config)
    return length + (MIN_FRAMES - 1) * shift
