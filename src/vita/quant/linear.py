"""Base class of linear layers with quantised weights.

A few rows (decoding, which reads every weight once a token) go through a kernel that reads the quantised weights. Many
rows (prefill) go through one too where it is faster; else blocks of weights are dequantised and multiplied by the
floating-point GEMM. The formats and their kernels are in `quant.int8` and `quant.int4`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vita.kernels.weight import GPU_DEQUANTIZE_BLOCK, channel_blocks
from vita.layers.linear import Activation, Route, apply_activation

DEQUANTIZE_BLOCK = 16 << 20  # weights dequantised at a time; smaller blocks make narrow, slow GEMMs
QUANTIZE_BLOCK = 4 << 20  # weights quantised at a time
# On a GPU: less would be bound by launches (18 s for the released model in int4), more takes gigabytes of float32.
GPU_QUANTIZE_BLOCK = 16 << 20


class QuantizedLinear(nn.Module, ABC):
    """`x · Wᵀ + b` with buffers `weight` and `scale` instead of W.

    Attributes:
        converted: multiplies rows `[n, in]`, bias added, by a converted copy of the weight (`kernels.matmul`). Then
            `weight` and `scale` have no values: they are on the meta device.
    """

    weight: Tensor
    scale: Tensor
    route: Route = "native"
    converted: Callable[[Tensor], Tensor] | None = None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`, in the dtype of x."""
        rows = x.reshape(-1, self.in_features)
        if self.converted is not None:
            return self.converted(rows.contiguous()).reshape(*x.shape[:-1], self.out_features)
        out = self.native_matmul(rows.contiguous()) if x.device.type == "cpu" else None
        if out is None:
            out = self._dequantized_matmul(rows)
        return out.reshape(*x.shape[:-1], self.out_features)

    def with_activation(self, x: Tensor, activation: Activation) -> Tensor:
        """`forward`, then the activation."""
        return apply_activation(self(x), activation)

    @abstractmethod
    def native_matmul(self, rows: Tensor) -> Tensor | None:
        """Multiply with the quantised weights: `[n, in]` to `[n, out]`, bias added.

        Returns None where no kernel exists or dequantising is faster.
        """

    @abstractmethod
    def dequantize_block(self, part: slice, dtype: torch.dtype) -> Tensor:
        """Dequantise the weights of some output channels: `[channels, in]` in `dtype`."""

    def _dequantized_matmul(self, rows: Tensor) -> Tensor:
        """`[n, in]` to `[n, out]`, a block of output channels at a time, bias added."""
        dtype = torch.float32 if self.route == "upcast" else rows.dtype
        x = rows.to(dtype)
        blocks = list(channel_blocks(self.out_features, self.in_features, dequantize_block_size(rows.device)))
        if len(blocks) == 1 and dtype == rows.dtype and rows.device.type != "cpu":
            return functional.linear(x, self.dequantize_block(blocks[0], dtype), self.bias)  # adds the bias inside
        out = torch.empty(rows.shape[0], self.out_features, dtype=rows.dtype, device=rows.device)
        for part in blocks:
            out[:, part] = x @ self.dequantize_block(part, dtype).t()
        return out if self.bias is None else out + self.bias


def quantize_block_size(device: torch.device) -> int:
    """Weights that are quantised at a time on a device."""
    return QUANTIZE_BLOCK if device.type == "cpu" else GPU_QUANTIZE_BLOCK


def dequantize_block_size(device: torch.device) -> int:
    """Weights that are dequantised at a time on a device."""
    return DEQUANTIZE_BLOCK if device.type == "cpu" else GPU_DEQUANTIZE_BLOCK
