"""Kaldi's log-mel filterbank in float32 (spec section 5).

`kaldi-native-fbank` computes the same values with other rounding. This version equals the reference to the bit on the
CPUs it was made on, and within float32 rounding elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from vita.config import FilterbankConfig
from vita.errors import MediaError
from vita.media.audio_frames import frame_sizes, min_samples, token_count

__all__ = ["filterbank", "filterbank_pieces", "pad_to_minimum", "token_count"]
PRE_EMPHASIS = 0.97
LOW_FREQUENCY = 20.0
FLOOR = 1.1920929e-07  # float32 epsilon: the energy of silence
PIECE_FRAMES = 512


def pad_to_minimum(samples: Tensor, config: FilterbankConfig | None = None) -> Tensor:
    """Pad with silence to the shortest audio that gives the encoder one frame (1,360 samples at 16 kHz)."""
    return functional.pad(samples, (0, max(0, min_samples(config or FilterbankConfig()) - samples.numel())))


def filterbank(samples: Tensor, config: FilterbankConfig, generator: torch.Generator | None = None) -> Tensor:
    """Log-mel energies.

    Args:
        samples: float32 `[n]` in [-1, 1).
        config: lengths, bins, and dither (standard deviation of added noise; 0 makes the result deterministic).
        generator: of the dither.

    Returns:
        float32 `[T, num_mel_bins]`, T = 1 + (n - frame) // shift; complete frames only.

    Raises:
        MediaError: shorter than one frame.
    """
    length, shift = frame_sizes(config)
    if samples.numel() < length:
        raise MediaError(f"audio of {samples.numel()} samples is shorter than one frame of {length}")
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
    length, shift = frame_sizes(config)
    count = max(1, 1 + (samples.numel() - length) // shift)
    for start in range(0, count, PIECE_FRAMES):
        end = min(start + PIECE_FRAMES, count)
        yield filterbank(samples[start * shift : (end - 1) * shift + length], config)


def mel_triangles(config: FilterbankConfig, size: int) -> Tensor:
    """Triangular weights, float32 `[num_mel_bins, size/2 + 1]`, linear in mel; those of the last FFT bin are 0."""
    low, high = (1127.0 * math.log(1.0 + f / 700.0) for f in (LOW_FREQUENCY, config.sample_rate / 2))
    delta = (high - low) / (config.num_mel_bins + 1)
    index = torch.arange(config.num_mel_bins).unsqueeze(1)
    left, centre, right = low + index * delta, low + (index + 1.0) * delta, low + (index + 2.0) * delta
    frequencies = (config.sample_rate / size) * torch.arange(size // 2)
    mel = (1127.0 * (1.0 + frequencies / 700.0).log()).unsqueeze(0)
    up, down = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return functional.pad(torch.minimum(up, down).clamp(min=0.0), (0, 1))
