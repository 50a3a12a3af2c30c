"""A linear layer whose weights are stored in four bits.

Owns the format, the product and the rounding. Does not know which layers of which model are stored so.

A row of weights is cut into groups of 64; a group has one scale and values from -8 to 7. Decoding reads a quarter of
the bytes: few rows go through our own kernel (`vita.kernels`), which multiplies whole numbers; many rows (prefill) are
multiplied by blocks of weights widened once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vita.kernels.build import GROUP, kernels
from vita.layers.linear import Route

KERNEL_ROWS = 12  # rows up to which the kernel wins (docs/benchmarks.md)
WIDE_BLOCK = 4 << 20  # weights widened at a time
CANDIDATES = torch.linspace(0.70, 1.0, 13)  # shares of a group's largest value that are tried as its end
HALF = GROUP // 2


class Int4Linear(nn.Module):
    """`x · Wᵀ + b` with W in four bits.

    `weight` is uint8 `[out, in / 2]`: byte j of a group holds value j low and value j + 32 high, both plus eight;
    `scale` is bfloat16 `[out, in / 64]`.
    """

    weight: Tensor
    scale: Tensor
    route: Route = "native"

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        if in_features % GROUP:
            raise ValueError(f"{in_features} is no multiple of {GROUP}")
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.zeros(out_features, in_features // 2, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(out_features, in_features // GROUP, dtype=torch.bfloat16))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`, in the input's dtype."""
        rows = x.reshape(-1, self.in_features)
        own = kernels() if x.device.type == "cpu" else None
        if own is not None and rows.shape[0] <= KERNEL_ROWS:
            out = own.int4_product(rows.float().contiguous(), self.weight, self.scale).to(x.dtype)
        else:
            out = self._widened(rows)
        if self.bias is not None:
            out = out + self.bias
        return out.reshape(*x.shape[:-1], self.out_features)

    def _widened(self, rows: Tensor) -> Tensor:
        """`[n, in]` to `[n, out]`, a block of output channels at a time."""
        dtype = torch.float32 if self.route == "upcast" else rows.dtype
        wide = rows.to(dtype)
        out = torch.empty(rows.shape[0], self.out_features, dtype=rows.dtype, device=rows.device)
        step = max(1, WIDE_BLOCK // self.in_features)
        own = kernels() if rows.device.type == "cpu" else None
        room = torch.empty(step, self.in_features, dtype=torch.bfloat16) if own else None
        for start in range(0, self.out_features, step):
            weight, scale = self.weight[start : start + step], self.scale[start : start + step]
            if own is not None and room is not None:
                block = room[: len(weight)]
                own.int4_widen(weight, scale, block)
            else:
                block = unpack(weight, scale)
            out[:, start : start + step] = wide @ block.to(dtype).t()
        return out


def unpack(weight: Tensor, scale: Tensor) -> Tensor:
    """Packed weights as bfloat16 `[out, in]`, with PyTorch's own operations."""
    packed = weight.view(len(weight), -1, HALF)
    values = torch.cat([packed & 15, packed >> 4], dim=-1).to(torch.float32) - 8  # [out, groups, 64]
    return (values * scale[..., None].float()).bfloat16().flatten(1)


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights rounded to four bits; each group's scale is the one of a few that leaves the least squared error.

    Args:
        weight: `[out, in]`, any float dtype, `in` a multiple of 64.

    Returns:
        uint8 `[out, in / 2]` and bfloat16 scales `[out, in / 64]`.
    """
    packed = torch.empty(weight.shape[0], weight.shape[1] // 2, dtype=torch.uint8)
    scale = torch.empty(weight.shape[0], weight.shape[1] // GROUP, dtype=torch.bfloat16)
    step = max(1, WIDE_BLOCK // 4 // weight.shape[1])
    for start in range(0, weight.shape[0], step):  # block by block, so that no float32 copy of the whole exists
        block = weight[start : start + step].float().view(-1, weight.shape[1] // GROUP, GROUP)
        unit, values = _best(block)
        scale[start : start + step] = unit
        whole = values.to(torch.uint8)
        packed[start : start + step] = (whole[..., :HALF] | whole[..., HALF:] << 4).flatten(1)
    return packed, scale


def _best(block: Tensor) -> tuple[Tensor, Tensor]:
    """Scales `[out, groups]` and values plus eight `[out, groups, 64]`."""
    # The value of the largest size takes the end that reaches further, -8, whatever its sign.
    at = block.abs().argmax(-1, keepdim=True)
    end = block.gather(-1, at)[..., 0] / -8
    best = torch.full_like(end, float("inf"))
    unit, values = torch.ones_like(end).bfloat16(), torch.full_like(block, 8.0)
    for share in CANDIDATES.tolist():
        tried = torch.where(end == 0, torch.ones_like(end), end * share).bfloat16()
        whole = (block / tried.float()[..., None]).round_().clamp_(-8, 7)
        error = (whole * tried.float()[..., None] - block).square_().sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        unit = torch.where(better, tried, unit)
        values = torch.where(better[..., None], whole + 8, values)
    return unit, values
