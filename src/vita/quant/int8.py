"""A linear layer with int8 weights, one scale per output channel, and their quantisation."""

from __future__ import annotations

import torch
from torch import Tensor

from vita.kernels.cpu.bindings import SUPPORTED_DTYPES, kernels
from vita.kernels.torch_ops import torch_ops
from vita.quant.linear import QuantizedLinear, quantize_block_size

QMAX = 127
PACKED_MAX_ROWS = 8  # up to this many rows PyTorch's int8 kernel is faster than dequantising
PACKED_CHANNELS = 4  # PyTorch's int8 kernel computes this many output channels at a time


class Int8Linear(QuantizedLinear):
    """`x · (W · scale)ᵀ + b` with W int8 `[out, in]` and bfloat16 scales `[out]`."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features, dtype=torch.bfloat16))

    def native_matmul(self, rows: Tensor) -> Tensor | None:
        """Multiply by the native kernels, or, without a compiler, a few rows by PyTorch's int8 kernel.

        Many bfloat16 rows take dynamic int8 (x quantised to int8, integer products) where that is faster. float32 rows
        do not: float32 is for exact results.
        """
        native = kernels() if rows.dtype in SUPPORTED_DTYPES and not rows.requires_grad else None
        if native is not None:
            out = native.gemm_int8(rows, self.weight, self.scale, self.bias)
            if out is None and rows.dtype == torch.bfloat16 and len(rows):
                out = native.gemm_dynamic_int8(rows, self.weight, self.scale, self.bias)
            return out
        if len(rows) > PACKED_MAX_ROWS:
            return None
        out = self._packed_matmul(rows)
        return out if out is None or self.bias is None else out + self.bias

    def _packed_matmul(self, rows: Tensor) -> Tensor | None:
        """`[n, in]` to `[n, out]` by PyTorch's int8 kernel, without the bias; None if this build has none.

        PyTorch 2.13 crashes if the number of channels is not a multiple of 4 and the weights are not 16-byte aligned,
        as may happen in a memory-mapped file. So the last channels are dequantised instead.
        """
        packed = self.out_features // PACKED_CHANNELS * PACKED_CHANNELS
        scale = self.scale.to(rows.dtype)
        out = torch_ops().int8_linear(rows, self.weight[:packed], scale[:packed])
        if out is None or packed == self.out_features:
            return out
        rest = rows @ self.weight[packed:].to(rows.dtype).t() * scale[packed:]
        return torch.cat([out, rest], dim=1)

    def dequantize_block(self, part: slice, dtype: torch.dtype) -> Tensor:
        """Scale the weights before the matmul: unscaled sums can overflow float16."""
        native = kernels() if self.weight.device.type == "cpu" and dtype == torch.bfloat16 else None
        if native is not None:
            out = torch.empty(self.weight[part].shape, dtype=dtype, device=self.weight.device)
            native.int8_dequantize(self.weight[part], self.scale[part], out)
            return out
        return self.weight[part].to(dtype) * self.scale[part].to(dtype)[:, None]


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise weights to int8, one scale per output channel from its largest absolute value.

    Args:
        weight: `[out, in]`, any float dtype, possibly a view of a mapped file, on any device.

    Returns:
        int8 `[out, in]` and bfloat16 scales `[out]`. Weights are divided by the scale as rounded to bfloat16, so its
        rounding adds no error.
    """
    quantized = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(weight.shape[0], dtype=torch.bfloat16, device=weight.device)
    step = max(1, quantize_block_size(weight.device) // weight.shape[1])
    for start in range(0, weight.shape[0], step):  # in blocks, to avoid a float32 copy of the weight
        block = weight[start : start + step].float()
        largest = block.abs().amax(dim=1)
        block_scale = torch.where(largest > 0, largest / QMAX, torch.ones_like(largest)).bfloat16()
        scale[start : start + step] = block_scale
        integers = (block / block_scale.float()[:, None]).round_().clamp_(-QMAX, QMAX)
        quantized[start : start + step] = integers.to(torch.int8)
    return quantized, scale
