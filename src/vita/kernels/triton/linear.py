"""Products of few rows with a weight, read once, on CUDA: what a decode step spends its time on.

Owns `x · Wᵀ` for up to 16 rows of x and weights in bfloat16, float16, float32, eight or four bits, with what stands
before and after it in a decoder block: the norm of x, the bias, the residual sum, the gate of the MLP. Joined so, a
block is six kernels; each launch less saves about two microseconds, of the 150 that a block of the released model
may take. Does not know about blocks, caches or requests.

A program multiplies CHANNELS output channels, and goes along the width in steps of WIDTH. The mean square of the norm
is a factor on the whole row, so it is summed on the way and multiplied at the end: nothing waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vita.kernels.cpu.bindings import GROUP_SIZE
from vita.kernels.triton import MAX_BATCH
from vita.kernels.weight import Weight

WHOLE, BITS8, BITS4 = 0, 1, 2


@dataclass(frozen=True)
class Shape:
    """How the work is cut: output channels of a program, values a step, warps, steps loaded ahead."""

    channels: int
    width: int
    warps: int
    stages: int


# By kind of weight, and whether there is one row or more; benchmarks/gpu.py tries others.
SHAPES: dict[tuple[int, bool], Shape] = {
    (WHOLE, True): Shape(8, 512, 4, 3),
    (WHOLE, False): Shape(32, 128, 4, 4),
    (BITS8, True): Shape(8, 1024, 4, 3),
    (BITS8, False): Shape(32, 128, 4, 4),
    (BITS4, True): Shape(8, 1024, 4, 3),
    (BITS4, False): Shape(32, 128, 4, 4),
}


def product(
    x: Tensor, weight: Weight, out: Tensor, *, gain: Tensor | None = None, eps: float = 0.0,
    add: Tensor | None = None, gate: bool = False, shape: Shape | None = None,
) -> None:  # fmt: skip
    """`norm(x) · Wᵀ + b`, into `out`.

    Args:
        x: `[rows, in]`, contiguous, 1 to 16 rows.
        weight: of `out` channels; with `gate` of twice as many, the gate's first.
        out: `[rows, out]`, contiguous, in the dtype of x.
        gain: `[in]`: x is normalised (RMSNorm) and multiplied by it first; None: taken as it is.
        eps: of the norm.
        add: `[rows, out]`, added; may be `out` itself.
        gate: `silu(gate) · up` comes out.
        shape: how the work is cut; default: `SHAPES`.
    """
    rows, width = x.shape
    channels = out.shape[1]
    kind = {torch.int8: BITS8, torch.uint8: BITS4}.get(weight.values.dtype, WHOLE)
    cut = shape or SHAPES[kind, rows == 1]
    wide = min(cut.width, max(GROUP_SIZE, triton.next_power_of_2(width)))
    grid = (triton.cdiv(channels, cut.channels),)
    _product[grid](
        x, weight.values, weight.scale, weight.bias, gain, add, out, rows, channels, eps,
        INPUTS=width, KIND=kind, ALONE=rows == 1, GATE=gate, NORM=gain is not None, BIAS=weight.bias is not None,
        ADD=add is not None, CHANNELS=cut.channels, WIDTH=wide, STAGES=cut.stages, ROWS=MAX_BATCH,
        num_warps=cut.warps,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def _product(
    x, weight, scale, bias, gain, add, out, rows, channels, eps,
    INPUTS: tl.constexpr, KIND: tl.constexpr, ALONE: tl.constexpr, GATE: tl.constexpr, NORM: tl.constexpr,
    BIAS: tl.constexpr, ADD: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    there = channel < channels
    if ALONE:
        ys, square = _one_row(x, weight, scale, gain, channel, there, INPUTS, KIND, NORM, CHANNELS, WIDTH, STAGES)
        if GATE:
            up, _ = _one_row(
                x, weight, scale, gain, channel + channels, there, INPUTS, KIND, NORM, CHANNELS, WIDTH, STAGES
            )
        at = channel
        real = there
    else:
        row = tl.arange(0, ROWS)
        ys, square = _some_rows(
            x, weight, scale, gain, rows, channel, there, INPUTS, KIND, NORM, CHANNELS, WIDTH, STAGES, ROWS
        )
        if GATE:
            up, _ = _some_rows(
                x, weight, scale, gain, rows, channel + channels, there, INPUTS, KIND, NORM, CHANNELS, WIDTH, STAGES,
                ROWS,
            )  # fmt: skip
        at = row[None, :] * channels + channel[:, None]  # [CHANNELS, ROWS]
        real = there[:, None] & (row < rows)[None, :]
        square = square[None, :]
    kept = out.dtype.element_ty
    if NORM:
        factor = tl.rsqrt(square / INPUTS + eps)
        ys *= factor
        if GATE:
            up *= factor
    if BIAS:
        b = tl.load(bias + channel, mask=there, other=0.0).to(tl.float32)
        ys += b if ALONE else b[:, None]
    ys = ys.to(kept).to(tl.float32)  # rounded where the modules round
    if GATE:
        ys = (ys / (1 + tl.exp(-ys))).to(kept).to(tl.float32) * up.to(kept).to(tl.float32)
    if ADD:
        ys += tl.load(add + at, mask=real, other=0.0).to(tl.float32)
    tl.store(out + at, ys.to(kept), mask=real)


@triton.jit
def _one_row(
    x, weight, scale, gain, channel, there,
    INPUTS: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """float32 `[CHANNELS]`, and the row's sum of squares: multiplied and added, without matrix instructions."""
    if KIND == 2:
        return _one_row_4(x, weight, scale, gain, channel, there, INPUTS, NORM, CHANNELS, WIDTH, STAGES)
    total = tl.zeros([CHANNELS, WIDTH], tl.float32)
    squares = tl.zeros([WIDTH], tl.float32)
    start = channel.to(tl.int64)[:, None] * INPUTS
    for k in tl.range(0, INPUTS, WIDTH, num_stages=STAGES):
        at = k + tl.arange(0, WIDTH)
        inside = at < INPUTS
        w = tl.load(weight + start + at[None, :], mask=there[:, None] & inside[None, :], other=0)
        xs = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            squares += xs * xs
            xs *= tl.load(gain + at, mask=inside, other=0.0).to(tl.float32)
        total += w.to(tl.float32) * xs[None, :]
    ys = tl.sum(total, 1)
    if KIND == 1:
        ys *= tl.load(scale + channel, mask=there, other=0.0).to(tl.float32)
    return ys, tl.sum(squares, 0)


@triton.jit
def _one_row_4(
    x, weight, scale, gain, channel, there,
    INPUTS: tl.constexpr, NORM: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The same for four bits: byte j of a group of 64 holds value j low and value j + 32 high, both plus eight."""
    GROUPS: tl.constexpr = WIDTH // 64
    total = tl.zeros([CHANNELS, GROUPS, 32], tl.float32)
    squares = tl.zeros([GROUPS, 32], tl.float32)
    start = channel.to(tl.int64)[:, None]
    byte = tl.arange(0, 32)
    for k in tl.range(0, INPUTS // 64, GROUPS, num_stages=STAGES):
        group = k + tl.arange(0, GROUPS)
        inside = group < INPUTS // 64
        real = there[:, None] & inside[None, :]
        at = start * (INPUTS // 64) + group[None, :]  # [CHANNELS, GROUPS]
        packed = tl.load(weight + at[:, :, None] * 32 + byte[None, None, :], mask=real[:, :, None], other=0x88)
        unit = tl.load(scale + at, mask=real, other=0.0).to(tl.float32)
        low_at = group[:, None] * 64 + byte[None, :]
        low = tl.load(x + low_at, mask=inside[:, None], other=0.0).to(tl.float32)
        high = tl.load(x + low_at + 32, mask=inside[:, None], other=0.0).to(tl.float32)
        if NORM:
            squares += low * low + high * high
            low *= tl.load(gain + low_at, mask=inside[:, None], other=0.0).to(tl.float32)
            high *= tl.load(gain + low_at + 32, mask=inside[:, None], other=0.0).to(tl.float32)
        first = ((packed & 15).to(tl.float32) - 8) * low[None]
        total += (first + ((packed >> 4).to(tl.float32) - 8) * high[None]) * unit[:, :, None]
    return tl.sum(tl.sum(total, 2), 1), tl.sum(tl.sum(squares, 1), 0)


@triton.jit
def _some_rows(
    x, weight, scale, gain, rows, channel, there,
    INPUTS: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    STAGES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """float32 `[CHANNELS, ROWS]`, and each row's sum of squares, by matrix instructions."""
    total = tl.zeros([CHANNELS, ROWS], tl.float32)
    squares = tl.zeros([ROWS], tl.float32)
    row = tl.arange(0, ROWS)
    start = channel.to(tl.int64)[:, None]
    own = row[:, None] * INPUTS
    real = (row < rows)[:, None]
    form = x.dtype.element_ty
    for k in tl.range(0, INPUTS, WIDTH, num_stages=STAGES):
        if KIND == 2:
            HALF: tl.constexpr = WIDTH // 2
            j = tl.arange(0, HALF)
            byte = k // 2 + j
            fits = there[:, None] & (byte < INPUTS // 2)[None, :]
            packed = tl.load(weight + start * (INPUTS // 2) + byte[None, :], mask=fits, other=0x88)
            unit = tl.load(scale + start * (INPUTS // 64) + (byte // 32)[None, :], mask=fits, other=0.0).to(tl.float32)
            at = k + j // 32 * 64 + j % 32
            low, lows = _rows_of(x, gain, own, at, real, INPUTS, NORM)
            high, highs = _rows_of(x, gain, own, at + 32, real, INPUTS, NORM)
            squares += lows + highs
            first = (((packed & 15).to(tl.float32) - 8) * unit).to(form)
            second = (((packed >> 4).to(tl.float32) - 8) * unit).to(form)
            total = tl.dot(first, tl.trans(low), total, input_precision="ieee")
            total = tl.dot(second, tl.trans(high), total, input_precision="ieee")
        else:
            at = k + tl.arange(0, WIDTH)
            fits = there[:, None] & (at < INPUTS)[None, :]
            w = tl.load(weight + start * INPUTS + at[None, :], mask=fits, other=0)
            xs, sums = _rows_of(x, gain, own, at, real, INPUTS, NORM)
            squares += sums
            total = tl.dot(w.to(form), tl.trans(xs), total, input_precision="ieee")
    if KIND == 1:
        total *= tl.load(scale + channel, mask=there, other=0.0).to(tl.float32)[:, None]
    return total, squares


@triton.jit
def _rows_of(x, gain, own, at, real, INPUTS: tl.constexpr, NORM: tl.constexpr):
    """Values `at` of every row, times the gain, in the dtype of x; and their squares' sums."""
    inside = (at < INPUTS)[None, :]
    xs = tl.load(x + own + at[None, :], mask=real & inside, other=0.0)
    if NORM:
        wide = xs.to(tl.float32)
        g = tl.load(gain + at, mask=at < INPUTS, other=0.0).to(tl.float32)
        return (wide * g[None, :]).to(x.dtype.element_ty), tl.sum(wide * wide, 1)
    return xs, tl.sum(xs.to(tl.float32) * 0, 1)
