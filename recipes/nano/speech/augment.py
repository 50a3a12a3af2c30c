"""Filterbanks as another throat would give them, and with parts blotted out."""

from __future__ import annotations

import math
from random import Random

import torch
from torch import Tensor

from recipes.nano.speech.room import RATE

LOWEST_BAND, THROATS = 20.0, (0.86, 1.16)  # hertz; factors of frequency
WIDEST_BLOT, LONGEST_BLOT = 14, 8  # bands and frames


def warped(bank: Tensor, rng: Random) -> Tensor:
    """A filterbank `[T, 80]` of the same melody from a longer or shorter throat, every other time (Jaitly and Hinton
    2013): bands move by one factor of their frequency, which leaves the pitch where the synthesiser put it."""
    if rng.random() < 0.5:
        return bank
    count = bank.shape[1]
    mels = torch.linspace(mel(LOWEST_BAND), mel(RATE / 2), count + 2)[1:-1]
    moved = 1127 * torch.log1p(torch.expm1(mels / 1127) * rng.uniform(*THROATS))
    place = ((moved - mels[0]) / (mels[1] - mels[0])).clamp(0, count - 1)
    below = place.floor().long()
    share = place - below
    return bank[:, below] * (1 - share) + bank[:, (below + 1).clamp(max=count - 1)] * share


def mel(hertz: float) -> float:
    """The mel scale of the filterbank."""
    return 1127 * math.log1p(hertz / 700)


def blotted(bank: Tensor, rng: Random) -> Tensor:
    """A filterbank `[T, 80]` with up to two bands and two moments at its mean (SpecAugment, Park et al. 2019): what
    was heard of one voice then helps more with another."""
    bank, mean = bank.clone(), bank.mean()
    for _ in range(rng.randint(0, 2)):
        wide = rng.randint(2, WIDEST_BLOT)
        low = rng.randint(0, bank.shape[1] - wide)
        bank[:, low : low + wide] = mean
    for _ in range(rng.randint(0, 2)):
        long = rng.randint(2, LONGEST_BLOT)
        start = rng.randint(0, max(0, len(bank) - long))
        bank[start : start + long] = mean
    return bank
