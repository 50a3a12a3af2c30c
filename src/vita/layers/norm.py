"""RMSNorm as in Qwen2 and Llama: the mean square in float32 (spec section 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vita.kernels.dispatch import elementwise_kernels


class RMSNorm(nn.Module):
    """`x * rsqrt(mean(x²) + eps)` in float32, cast to the dtype of x, times `weight`."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size]` to the same shape and dtype."""
        native = elementwise_kernels(x, self.weight)
        if native is not None:
            return native.rms_norm(x.contiguous(), self.weight, self.eps)
        normed = x.float()
        normed = normed * torch.rsqrt(normed.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight
