"""Rotary position embedding, rotate-half form (Su et al. 2021; spec section 8)."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from vita.kernels.dispatch import elementwise_kernels

CosSin: TypeAlias = tuple[Tensor, Tensor]  # cos and sin, each [batch or 1, n, 1, d]


def rope_tables(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> CosSin:
    """Cosines and sines of `position * theta^(-2i/d)`, computed in float32, then cast.

    Args:
        positions: int64 `[batch or 1, n]`.
        head_dim: d.
        theta: the RoPE base.
        dtype: of the tables.

    Returns:
        cos and sin, each `[batch or 1, n, 1, d]`; the second half of d repeats the first.
    """
    return cos_sin(positions, rope_frequencies(head_dim, theta, positions.device), dtype)


def rope_frequencies(head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Radians per position: float32 `[d / 2]`."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)


def cos_sin(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> CosSin:
    """As `rope_tables`, from precomputed frequencies float32 `[d / 2]`."""
    angle = positions[:, :, None, None].float() * frequencies
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def apply_rope(x: Tensor, tables: CosSin) -> Tensor:
    """`x * cos + [-x2, x1] * sin` for `[batch, n, heads, d]`; overwrites `x` where a native kernel runs."""
    cos, sin = tables
    native = elementwise_kernels(x, cos)
    if native is not None and native.rope(x, cos, sin):
        return x
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
