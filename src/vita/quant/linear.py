"""What linear layers with rounded weights have in common, whatever the number of bits.

Owns the way of many rows (prefill) where no kernel is faster: blocks of weights are widened once each and multiplied
by the fast matrix product. Few rows (decoding, which reads every weight once a token) go through a kernel that reads
the rounded weights. The formats and their kernels are `quant.int8`'s and `quant.int4`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vita.layers.linear import Activation, Route, activated

DEQUANTIZE_BLOCK = 16 << 20  # weights widened at a time: fewer make narrow products, which are slow
QUANTIZE_BLOCK = 4 << 20  # weights rounded at a time


class QuantizedLinear(nn.Module, ABC):
    """`x · Wᵀ + b` with buffers `weight` and `scale` instead of W."""

    weight: Tensor
    scale: Tensor
    route: Route = "native"

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`, in the input's dtype."""
        rows = x.reshape(-1, self.in_features)
        out = self.product(rows.contiguous()) if x.device.type == "cpu" else None
        if out is None:
            out = self._widened(rows)
            out = out if self.bias is None else out + self.bias
        return out.reshape(*x.shape[:-1], self.out_features)

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        """As `forward`, then the activation."""
        return activated(self(x), activation)

    @abstractmethod
    def product(self, rows: Tensor) -> Tensor | None:
        """`[n, in]` to `[n, out]`, reading rounded weights, bias added; None if that would not be faster."""

    @abstractmethod
    def block(self, part: slice, dtype: torch.dtype) -> Tensor:
        """Some output channels' weights, widened: `[channels, in]`. May be overwritten by the next call's."""

    def _widened(self, rows: Tensor) -> Tensor:
        """`[n, in]` to `[n, out]`, a block of output channels at a time."""
        dtype = torch.float32 if self.route == "upcast" else rows.dtype
        wide = rows.to(dtype)
        out = torch.empty(rows.shape[0], self.out_features, dtype=rows.dtype, device=rows.device)
        step = max(1, DEQUANTIZE_BLOCK // self.in_features)
        for start in range(0, self.out_features, step):
            part = slice(start, min(start + step, self.out_features))
            out[:, part] = wide @ self.block(part, dtype).t()
        return out
