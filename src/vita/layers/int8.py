"""A linear layer whose weights are stored in eight bits.

Owns the product with int8 weights and one scale per output channel, and the rounding that makes them. Does not know
which layers of which model are stored so: that is `weights.load`'s choice.

Decoding reads every weight once a token, so half the bytes is half the time: few rows go through PyTorch's fused
kernel, which reads int8 and multiplies in the working dtype. It reads the weights anew for every row; many rows
(prefill, batches) are therefore multiplied by blocks of weights widened once, as in `layers.linear`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vita.layers.linear import Route

FUSED_ROWS = 8  # rows up to which the fused kernel wins (docs/benchmarks.md)
WIDE_BLOCK = 4 << 20  # weights widened at a time
LARGEST = 127
KERNEL_CHANNELS = 4  # output channels the fused kernel does together


class Int8Linear(nn.Module):
    """`x · (W · scale)ᵀ + b` with W int8 `[out, in]` and one scale an output channel."""

    weight: Tensor
    scale: Tensor
    route: Route = "native"

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features, dtype=torch.bfloat16))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`, in the input's dtype."""
        rows = x.reshape(-1, self.in_features)
        if x.device.type == "cpu" and rows.shape[0] <= FUSED_ROWS:
            out = self._fused(rows.contiguous())
        else:
            out = self._widened(rows)
        if self.bias is not None:
            out = out + self.bias
        return out.reshape(*x.shape[:-1], self.out_features)

    def _fused(self, rows: Tensor) -> Tensor:
        """`[n, in]` to `[n, out]` by the kernel that reads int8.

        It crashes on a count of channels that is no multiple of four where the weights do not lie on a 16-byte
        border (PyTorch 2.13), as they may in a mapped file; the last few channels are widened instead.
        """
        whole = self.out_features // KERNEL_CHANNELS * KERNEL_CHANNELS
        scale = self.scale.to(rows.dtype)
        out = torch._weight_int8pack_mm(rows, self.weight[:whole], scale[:whole])
        if whole == self.out_features:
            return out
        rest = rows @ self.weight[whole:].to(rows.dtype).t() * scale[whole:]
        return torch.cat([out, rest], dim=1)

    def _widened(self, rows: Tensor) -> Tensor:
        """`[n, in]` to `[n, out]`, a block of output channels at a time."""
        dtype = torch.float32 if self.route == "upcast" else rows.dtype
        wide = rows.to(dtype)
        out = torch.empty(rows.shape[0], self.out_features, dtype=rows.dtype, device=rows.device)
        step = max(1, WIDE_BLOCK // self.in_features)
        for start in range(0, self.out_features, step):
            part = slice(start, start + step)
            # Scaled before the product: after it, the sum of whole numbers can leave float16's range.
            out[:, part] = wide @ (self.weight[part].to(dtype) * self.scale[part].to(dtype)[:, None]).t()
        return out


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights rounded to eight bits, each output channel by its own largest value.

    Args:
        weight: `[out, in]`, any float dtype, possibly a view of a mapped file.

    Returns:
        int8 `[out, in]` and bfloat16 scales `[out]`. The scale is rounded before the weights are divided by it, so
        that its own rounding costs nothing.
    """
    whole = torch.empty(weight.shape, dtype=torch.int8)
    scale = torch.empty(weight.shape[0], dtype=torch.bfloat16)
    step = max(1, WIDE_BLOCK // weight.shape[1])
    for start in range(0, weight.shape[0], step):  # block by block, so that no float32 copy of the whole exists
        block = weight[start : start + step].float()
        largest = block.abs().amax(dim=1)
        unit = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest)).bfloat16()
        scale[start : start + step] = unit
        rounded = (block / unit.float()[:, None]).round_().clamp_(-LARGEST, LARGEST)
        whole[start : start + step] = rounded.to(torch.int8)
    return whole, scale
