"""What stands between the products of many rows on CUDA, each in one launch instead of four to six.

Owns the norm, the rotary turning, the MLP's gate, the widening of four-bit weights and the picking of embedding rows:
all bound by memory, so each value is read once and written once. Does not know about blocks or caches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES = 1024  # values of one program


class TritonElementwise:
    """The same calls as `kernels.cpu.bindings.Kernels` has, on CUDA tensors of any float dtype."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last dimension: contiguous `[..., n]` and `[n]`."""
        out, width = torch.empty_like(x), weight.shape[0]
        with torch.cuda.device_of(x):
            _norm[(x.numel() // width,)](x, weight, out, width, eps, WIDTH=triton.next_power_of_2(width), num_warps=8)
        return out

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor) -> bool:
        """Rotary positions of contiguous `x` `[batch, n, heads, d]`, in place; angles `[batch or 1, n, 1, d]`."""
        heads, width = x.shape[2:]
        if not all(t.is_contiguous() for t in (x, cos, sin)) or width & (width - 1):
            return False
        rows, angles = x.shape[0] * x.shape[1], cos.shape[0] * cos.shape[1]
        with torch.cuda.device_of(x):
            _rotate[(rows, heads)](x, cos, sin, heads, angles, HALF=width // 2, num_warps=1)
        return True

    def silu_mul(self, gate: Tensor, up: Tensor) -> bool:
        """`silu(gate) · up` into `gate`."""
        there = gate.is_contiguous() and up.is_contiguous()
        if there:
            with torch.cuda.device_of(gate):
                _gate[(triton.cdiv(gate.numel(), LANES),)](gate, up, gate.numel(), LANES=LANES, num_warps=4)
        return there


def int4_dequantize(weight: Tensor, scale: Tensor, out: Tensor) -> None:
    """Weights of four bits (layers.int4), contiguous, as floats into `out`, contiguous `[out, in]`."""
    groups = scale.numel()
    with torch.cuda.device_of(weight):
        _widen[(triton.cdiv(groups, LANES // 32),)](weight, scale, out, groups, GROUPS=LANES // 32, num_warps=4)


def take(table: Tensor, tokens: Tensor, out: Tensor) -> None:
    """Rows of a table, on the device or in the host's locked memory (`gpu.host`).

    Args:
        table: `[vocab, H]`, contiguous.
        tokens: int64 `[rows]`.
        out: `[rows, H]`, contiguous.
    """
    rows, width = out.shape
    _take[(triton.cdiv(width, LANES), rows)](table, tokens, out, width, LANES=LANES, num_warps=4)


@triton.jit
def _take(table, tokens, out, width, LANES: tl.constexpr):
    at, row = tl.program_id(0) * LANES + tl.arange(0, LANES), tl.program_id(1)
    inside = at < width
    values = tl.load(table + tl.load(tokens + row) * width + at, mask=inside, other=0.0)
    tl.store(out + row * width + at, values, mask=inside)


@triton.jit
def _norm(x, weight, out, width, eps, WIDTH: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    inside = at < width
    kept = x.dtype.element_ty
    xs = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(xs * xs, 0) / width + eps)
    ys = (xs * factor).to(kept).to(tl.float32) * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, ys.to(kept), mask=inside)


@triton.jit(do_not_specialize=["heads", "angles"])  # lengths of prompts: no kernel of its own for multiples of 16
def _rotate(x, cos, sin, heads, angles, HALF: tl.constexpr):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.arange(0, HALF)
    place = x + (row * heads + head) * 2 * HALF + at
    turn = row % angles * 2 * HALF + at
    c, s = tl.load(cos + turn).to(tl.float32), tl.load(sin + turn).to(tl.float32)  # the second half is the same
    first, second = tl.load(place).to(tl.float32), tl.load(place + HALF).to(tl.float32)
    tl.store(place, (first * c - second * s).to(x.dtype.element_ty))
    tl.store(place + HALF, (second * c + first * s).to(x.dtype.element_ty))


@triton.jit
def _gate(gate, up, count, LANES: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = at < count
    kept = gate.dtype.element_ty
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    g = (g / (1 + tl.exp(-g))).to(kept).to(tl.float32) * tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(gate + at, g.to(kept), mask=inside)


@triton.jit
def _widen(weight, scale, out, groups, GROUPS: tl.constexpr):
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    byte = tl.arange(0, 32)
    inside = (group < groups)[:, None]
    packed = tl.load(weight + group[:, None] * 32 + byte[None, :], mask=inside, other=0x88)
    unit = tl.load(scale + group[:, None], mask=inside, other=0.0).to(tl.float32)
    place = out + group[:, None] * 64 + byte[None, :]
    tl.store(place, (((packed & 15).to(tl.float32) - 8) * unit).to(out.dtype.element_ty), mask=inside)
    tl.store(place + 32, (((packed >> 4).to(tl.float32) - 8) * unit).to(out.dtype.element_ty), mask=inside)
