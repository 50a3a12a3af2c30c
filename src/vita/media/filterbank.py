"""Kaldi's filterbank in float32 (spec section 5).

Owns the way from samples to log-mel frames. `kaldi-native-fbank` computes the same in other rounding; this one
meets the reference bit for bit on the CPUs it was made on, and within rounding elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from vita.config import FilterbankConfig
from vita.errors import MediaError

PRE_EMPHASIS = 0.97
LOW_FREQUENCY = 20.0
FLOOR = 1.1920929e-07  # float32 epsilon: the energy of silence
PIECE_FRAMES = 512
MIN_FRAMES = 7  # the encoder's convolutions need as many


def token_count(frames: int) -> int:
    """Decoder tokens of T filterbank frames: `ceil(e / 2)` with `e = ((T-1)//2 - 1)//2`."""
    encoded = ((frames - 1) // 2 - 1) // 2 if frames >= MIN_FRAMES else 0
    return -(-encoded // 2)


def pad_to_minimum(samples: Tensor, config: FilterbankConfig | None = None) -> Tensor:
    """Silence behind a sound that is too short to give the encoder one frame (1,360 samples at 16 kHz)."""
    config = config or FilterbankConfig()
    length, shift = _sizes(config)
    least = length + (MIN_FRAMES - 1) * shift
    return functional.pad(samples, (0, max(0, least - samples.numel())))


def filterbank(samples: Tensor, config: FilterbankConfig, generator: torch.Generator | None = None) -> Tensor:
    """Log-mel energies.

    Args:
        samples: float32 `[n]` in [-1, 1).
        config: lengths, bins, and dither (noise of that deviation; 0 repeats exactly).
        generator: source of the dither.

    Returns:
        float32 `[T, num_mel_bins]`, T = 1 + (n - frame) // shift; only whole frames.

    Raises:
        MediaError: shorter than one frame.
    """
    length, shift = _sizes(config)
    if samples.numel() < length:
        raise MediaError(f"a sound of {samples.numel()} samples is shorter than one frame of {length}")
    frames = (samples * 32768.0).unfold(0, length, shift)  # [T, 400]
    if config.dither:
        frames = frames + config.dither * torch.randn(frames.shape, generator=generator)
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - PRE_EMPHASIS * previous) * torch.hann_window(length, periodic=False).pow(0.85)
    size = 1 << (length - 1).bit_length()
    power = torch.fft.rfft(functional.pad(frames, (0, size - length))).abs().pow(2.0)  # [T, 257]
    energies = torch.mm(power, mel_triangles(config, size).t())
    return energies.clamp(min=FLOOR).log()


def filterbank_pieces(samples: Tensor, config: FilterbankConfig) -> Iterator[Tensor]:
    """`filterbank` in pieces of up to 512 frames, so that a caller may do other work between them."""
    length, shift = _sizes(config)
    count = max(1, 1 + (samples.numel() - length) // shift)
    for start in range(0, count, PIECE_FRAMES):
        end = min(start + PIECE_FRAMES, count)
        yield filterbank(samples[start * shift : (end - 1) * shift + length], config)


def mel_triangles(config: FilterbankConfig, size: int) -> Tensor:
    """Weights float32 `[num_mel_bins, size/2 + 1]`, linear in mel; the last bin gets none."""
    low, high = (1127.0 * math.log(1.0 + f / 700.0) for f in (LOW_FREQUENCY, config.sample_rate / 2))
    delta = (high - low) / (config.num_mel_bins + 1)
    index = torch.arange(config.num_mel_bins).unsqueeze(1)
    left, centre, right = low + index * delta, low + (index + 1.0) * delta, low + (index + 2.0) * delta
    frequencies = (config.sample_rate / size) * torch.arange(size // 2)
    mel = (1127.0 * (1.0 + frequencies / 700.0).log()).unsqueeze(0)
    up, down = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return functional.pad(torch.minimum(up, down).clamp(min=0.0), (0, 1))


def _sizes(config: FilterbankConfig) -> tuple[int, int]:
    """Samples of a frame and of a shift."""
    return (
        int(config.sample_rate * config.frame_length * 0.001),
        int(config.sample_rate * config.frame_shift * 0.001),
    )
