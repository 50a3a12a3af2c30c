"""A linear layer whose weights are stored in eight bits.

Owns the product with int8 weights and one scale per output channel, and the rounding that makes them. Does not know
which layers of which model are stored so: that is `quant.scheme`'s choice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vita.kernels.cpu.bindings import SUPPORTED_DTYPES, kernels
from vita.kernels.torch_ops import torch_ops
from vita.quant.linear import QUANTIZE_BLOCK, QuantizedLinear

QMAX = 127
PACKED_ROWS = 8  # up to which PyTorch's kernel beats widening
PACKED_CHANNELS = 4  # output channels that PyTorch's kernel does together


class Int8Linear(QuantizedLinear):
    """`x · (W · scale)ᵀ + b` with W int8 `[out, in]` and one bfloat16 scale an output channel."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features, dtype=torch.bfloat16))

    def product(self, rows: Tensor) -> Tensor | None:
        """Our own kernels, or PyTorch's for few rows where there is no compiler. Many rows are multiplied in whole
        numbers, x rounded to eight bits, where that is faster and x is not in float32, which is for who wants it exact.
        """
        own = kernels() if rows.dtype in SUPPORTED_DTYPES and not rows.requires_grad else None
        if own is not None:
            out = own.gemm_int8(rows, self.weight, self.scale, self.bias)
            if out is None and rows.dtype == torch.bfloat16 and len(rows):
                out = own.gemm_dynamic_int8(rows, self.weight, self.scale, self.bias)
            return out
        if len(rows) > PACKED_ROWS:
            return None
        out = self._packed(rows)
        return out if out is None or self.bias is None else out + self.bias

    def _packed(self, rows: Tensor) -> Tensor | None:
        """PyTorch's kernel crashes on a count of channels that is no multiple of four where the weights do not lie on
        a 16-byte border (PyTorch 2.13), as they may in a mapped file; the last few channels are widened instead."""
        whole = self.out_features // PACKED_CHANNELS * PACKED_CHANNELS
        scale = self.scale.to(rows.dtype)
        out = torch_ops().int8_linear(rows, self.weight[:whole], scale[:whole])
        if out is None or whole == self.out_features:
            return out
        rest = rows @ self.weight[whole:].to(rows.dtype).t() * scale[whole:]
        return torch.cat([out, rest], dim=1)

    def block(self, part: slice, dtype: torch.dtype) -> Tensor:
        """Scaled before the product: after it, the sum of whole numbers can leave float16's range."""
        own = kernels() if self.weight.device.type == "cpu" and dtype == torch.bfloat16 else None
        if own is not None:
            room = torch.empty(self.weight[part].shape, dtype=dtype)
            own.int8_dequantize(self.weight[part], self.scale[part], room)
            return room
        return self.weight[part].to(dtype) * self.scale[part].to(dtype)[:, None]


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights rounded to eight bits, each output channel by its own largest value.

    Args:
        weight: `[out, in]`, any float dtype, possibly a view of a mapped file, on any device.

    Returns:
        int8 `[out, in]` and bfloat16 scales `[out]`. The scale is rounded before the weights are divided by it, so
        that its own rounding costs nothing.
    """
    whole = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(weight.shape[0], dtype=torch.bfloat16, device=weight.device)
    step = max(1, QUANTIZE_BLOCK // weight.shape[1])
    for start in range(0, weight.shape[0], step):  # block by block, so that no float32 copy of the whole exists
        block = weight[start : start + step].float()
        largest = block.abs().amax(dim=1)
        unit = torch.where(largest > 0, largest / QMAX, torch.ones_like(largest)).bfloat16()
        scale[start : start + step] = unit
        rounded = (block / unit.float()[:, None]).round_().clamp_(-QMAX, QMAX)
        whole[start : start + step] = rounded.to(torch.int8)
    return whole, scale
