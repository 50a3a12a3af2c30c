"""Attention of a decode step on CUDA: every request's newest position against its own cache.

Owns turning queries and keys by their positions, appending keys and values to the caches, and softmax attention over
all that is then there, for requests of any lengths in one launch. Where the caches lie and how long they are is read
from a table on the device, so that the same launch, recorded once in a CUDA graph, serves every step. Does not know
about products or requests.

Each request's keys are cut into SPLITS parts, so that one long request fills the machine too; the parts' results are
joined by a second kernel (Flash-Decoding, Dao et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

KEYS = 64  # looked at together by one program, half as many in float32: GPUs but the largest have 99 KiB for it
MIN_HEADS = 16  # rows of a matrix instruction: heads of a group, padded
MIN_HEAD_DIM = 32  # of a head: halves of it are multiplied by matrix instructions
SPLITS = 32  # of a request's keys; with 4 groups one request makes 128 programs, about one a multiprocessor
COLUMNS = 6  # of the table, below
LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Heads:
    """Sizes of attention.

    Attributes:
        count: query heads.
        groups: key heads; queries of a group share one.
        width: of a head, a power of two.
        splits: parts that a request's keys are cut into.
    """

    count: int
    groups: int
    width: int
    splits: int


def room(rows: int, heads: Heads, device: torch.device) -> Tensor:
    """Space for the parts' results: float32 `[rows, heads, splits, width + 2]`; largest score, sum, values."""
    return torch.empty(rows, heads.count, heads.splits, heads.width + 2, dtype=torch.float32, device=device)


def keys_of(wide: bool) -> int:
    """Keys that a program looks at together; `wide`: in float32."""
    return KEYS // 2 if wide else KEYS


def attend_step(
    qkv: Tensor, table: Tensor, layers: int, layer: int, cos: Tensor, sin: Tensor, heads: Heads, parts: Tensor,
    out: Tensor, *, rounded: bool,
) -> None:  # fmt: skip
    """One position more in every cache, and attention to all that is then there, into `out`.

    Args:
        qkv: `[rows, (heads + 2 groups) * width]`, contiguous: queries, keys, values, not yet turned.
        table: int64 `[rows, COLUMNS]`: a cache's address of keys, of values, of scales (0 if not rounded), its
            capacity, its length, and by how much a step makes it longer (not read here).
        layers: of the caches, `[layers, groups, capacity, width]`.
        layer: of them.
        cos, sin: `[rows, width]`, contiguous: of each row's newest position (layers.rotary).
        heads: sizes.
        parts: as `room` makes it.
        out: `[rows, heads * width]`, contiguous.
        rounded: the caches are int8, with scales `[2, layers, groups, capacity]` in the dtype of qkv.
    """
    rows = qkv.shape[0]
    of_group = heads.count // heads.groups
    _parts[(heads.splits, heads.groups, rows)](
        qkv, table, cos, sin, parts, layers, layer, heads.width**-0.5 * LOG2_E,
        HEADS=heads.count, GROUPS=heads.groups, WIDTH=heads.width, SPLITS=heads.splits, ROUNDED=rounded,
        KEYS=keys_of(qkv.dtype == torch.float32), PADDED=max(MIN_HEADS, triton.next_power_of_2(of_group)),
        num_warps=4,
    )  # fmt: skip
    _joined[(heads.count, rows)](parts, out, HEADS=heads.count, WIDTH=heads.width, SPLITS=heads.splits, num_warps=4)


@triton.jit(do_not_specialize=["layers", "layer"])  # one kernel for all layers
def _parts(
    qkv, table, cosines, sines, parts, layers, layer, scale,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr, ROUNDED: tl.constexpr,
    KEYS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    split, group, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    HALF: tl.constexpr = WIDTH // 2
    SHARE: tl.constexpr = HEADS // GROUPS
    form = qkv.dtype.element_ty
    cell = table + row * 6
    capacity, length = tl.load(cell + 3), tl.load(cell + 4)
    each = tl.cdiv(tl.cdiv(length, SPLITS), KEYS) * KEYS
    begin = split * each
    end = tl.minimum(begin + each, length)
    head, half, whole = tl.arange(0, PADDED), tl.arange(0, HALF), tl.arange(0, WIDTH)
    cos = tl.load(cosines + row * WIDTH + half).to(tl.float32)  # the second half is the same
    sin = tl.load(sines + row * WIDTH + half).to(tl.float32)
    own = qkv + row * (HEADS + 2 * GROUPS) * WIDTH
    at = (group * SHARE + head)[:, None] * WIDTH + half[None, :]
    real = (head < SHARE)[:, None]
    first = tl.load(own + at, mask=real, other=0.0).to(tl.float32)
    second = tl.load(own + at + HALF, mask=real, other=0.0).to(tl.float32)
    q1 = (first * cos[None] - second * sin[None]).to(form)  # [PADDED, HALF]
    q2 = (second * cos[None] + first * sin[None]).to(form)
    plane = (layer * GROUPS + group) * capacity  # positions before this head's; int64, as the capacity is
    stored = tl.int8 if ROUNDED else form
    keys = tl.load(cell).to(tl.pointer_type(stored)) + plane * WIDTH
    values = tl.load(cell + 1).to(tl.pointer_type(stored)) + plane * WIDTH
    keys, values = tl.multiple_of(keys, 16), tl.multiple_of(values, 16)  # memory comes on such borders: wide loads
    scales = tl.load(cell + 2).to(tl.pointer_type(form)) + plane
    scales_v = scales + layers * GROUPS * capacity
    most = tl.full([PADDED], -float("inf"), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    mixed = tl.zeros([PADDED, WIDTH], tl.float32)
    if split == 0:
        new = own + (HEADS + group) * WIDTH
        k1, k2, v = _newest(new, keys, values, scales, scales_v, cos, sin, length, GROUPS, WIDTH, ROUNDED)
        most = scale * tl.sum(q1.to(tl.float32) * k1[None, :] + q2.to(tl.float32) * k2[None, :], 1)
        total += 1.0
        mixed += v[None, :]
    for start in range(begin, end, KEYS):
        key = start + tl.arange(0, KEYS)
        seen = key < end
        spot = key[:, None] * WIDTH
        keys_1 = tl.load(keys + spot + half[None, :], mask=seen[:, None], other=0)
        keys_2 = tl.load(keys + spot + HALF + half[None, :], mask=seen[:, None], other=0)
        seen_v = tl.load(values + spot + whole[None, :], mask=seen[:, None], other=0)
        score = tl.dot(q1, tl.trans(keys_1.to(form)), input_precision="ieee")
        score = tl.dot(q2, tl.trans(keys_2.to(form)), score, input_precision="ieee") * scale  # [PADDED, KEYS]
        if ROUNDED:
            score *= tl.load(scales + key, mask=seen, other=0.0).to(tl.float32)[None, :]
        score = tl.where(seen[None, :], score, -float("inf"))
        higher = tl.maximum(most, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(most - higher)
        total = total * shrink + tl.sum(weight, 1)
        if ROUNDED:
            weight *= tl.load(scales_v + key, mask=seen, other=0.0).to(tl.float32)[None, :]
        mixed = mixed * shrink[:, None] + tl.dot(weight.to(form), seen_v.to(form), input_precision="ieee")
        most = higher
    place = ((row * HEADS + group * SHARE + head) * SPLITS + split) * (WIDTH + 2)
    tl.store(parts + place, most, mask=head < SHARE)
    tl.store(parts + place + 1, total, mask=head < SHARE)
    tl.store(parts + place[:, None] + 2 + whole[None, :], mixed, mask=real)


@triton.jit
def _newest(
    new, keys, values, scales, scales_v, cos, sin, length,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, ROUNDED: tl.constexpr,
):  # fmt: skip
    """The newest position into the cache, where nobody reads it in this step, and as floats: both halves of the key,
    turned, and the value."""
    HALF: tl.constexpr = WIDTH // 2
    half, whole = tl.arange(0, HALF), tl.arange(0, WIDTH)
    form = new.dtype.element_ty
    stored = keys.dtype.element_ty
    n1, n2 = tl.load(new + half).to(tl.float32), tl.load(new + half + HALF).to(tl.float32)
    k1, k2 = (n1 * cos - n2 * sin).to(form).to(tl.float32), (n2 * cos + n1 * sin).to(form).to(tl.float32)
    v = tl.load(new + GROUPS * WIDTH + whole).to(tl.float32)
    unit, unit_v = 1.0, 1.0
    if ROUNDED:
        unit = (tl.maximum(tl.max(tl.abs(k1), 0), tl.max(tl.abs(k2), 0)) / 127).to(form).to(tl.float32)
        unit_v = (tl.max(tl.abs(v), 0) / 127).to(form).to(tl.float32)
        k1, k2, v = _rounded(k1, unit), _rounded(k2, unit), _rounded(v, unit_v)
        tl.store(scales + length, unit.to(form))
        tl.store(scales_v + length, unit_v.to(form))
    tl.store(keys + length * WIDTH + half, k1.to(stored))
    tl.store(keys + length * WIDTH + HALF + half, k2.to(stored))
    tl.store(values + length * WIDTH + whole, v.to(stored))
    return k1 * unit, k2 * unit, v * unit_v


@triton.jit
def _rounded(x, unit):
    """Whole numbers as floats, the nearest; half to even, as PyTorch rounds."""
    safe = tl.where(unit > 0, unit, 1.0)
    whole = (x / safe + 12582912.0) - 12582912.0  # 1.5 * 2**23: its neighbours are whole numbers
    return tl.minimum(tl.maximum(whole, -127.0), 127.0)


@triton.jit
def _joined(parts, out, HEADS: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr):
    head, row = tl.program_id(0), tl.program_id(1)
    split, whole = tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    place = parts + ((row * HEADS + head) * SPLITS + split) * (WIDTH + 2)
    most = tl.load(place)
    share = tl.exp2(most - tl.max(most, 0))  # 0 for a part without keys
    total = tl.sum(share * tl.load(place + 1), 0)
    mixed = tl.sum(share[:, None] * tl.load(place[:, None] + 2 + whole[None, :]), 0)
    tl.store(out + (row * HEADS + head) * WIDTH + whole, (mixed / total).to(out.dtype.element_ty))
