"""RMSNorm as Qwen2 and Llama compute it: the mean square in float32 (spec section 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vita.kernels.dispatch import elementwise_kernels


class RMSNorm(nn.Module):
    """`x * rsqrt(mean(x²) + eps)` in float32, cast back, times weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size]` to the same shape and dtype."""
        own = elementwise_kernels(x, self.weight)
        if own is not None:
            return own.rms_norm(x.contiguous(), self.weight, self.eps)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight
