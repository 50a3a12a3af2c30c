"""Rotary positions on halves (Su et al. 2021; spec section 8).

Owns the angles and the turning of queries and keys by them. Does not know where a position comes from.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from vita.kernels.dispatch import elementwise_kernels

Rotary: TypeAlias = tuple[Tensor, Tensor]  # cos and sin, each [batch or 1, positions, 1, d]


def rotary(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Angles `position * theta^(-2i/d)` on halves; computed in float32, then cast.

    Args:
        positions: int64 `[batch or 1, n]`.
        head_dim: d.
        theta: the base.
        dtype: the working dtype.
    """
    return turned(positions, frequencies(head_dim, theta, positions.device), dtype)


def frequencies(head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Radians a position: float32 `[d / 2]`."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)


def turned(positions: Tensor, radians: Tensor, dtype: torch.dtype) -> Rotary:
    """As `rotary`, of known frequencies."""
    angle = positions[:, :, None, None].float() * radians
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, angles: Rotary) -> Tensor:
    """`x * cos + [-x2, x1] * sin` for `[batch, n, heads, d]`; outside training the room of x is used for it."""
    cos, sin = angles
    own = elementwise_kernels(x, cos)
    if own is not None and own.rope(x, cos, sin):
        return x
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
