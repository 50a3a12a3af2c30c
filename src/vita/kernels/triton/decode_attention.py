"""Attention of a decode step on CUDA: each request's new position against its own KV cache.

One launch applies RoPE to queries and keys, appends keys and values to the caches, and attends to all their positions,
for requests of any lengths. Cache addresses and lengths are read from a block table on the device, so the same launch,
captured once in a CUDA graph, serves every step.

Each request's keys are split into SPLITS parts, so that one long request also fills the GPU; a second kernel reduces
the partial results (Flash-Decoding, Dao et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

KV_BLOCK = 64  # keys per iteration; half as many in float32, since most GPUs have 99 KiB of shared memory a program
MIN_ROWS = 16  # M of a tensor-core matmul: the query heads of a KV head are padded to it
MIN_HEAD_DIM = 32  # a tensor-core matmul takes half a head, at least 16 values
SPLITS = 32  # with 4 KV heads, one request makes 128 programs, about one a multiprocessor
TABLE_COLUMNS = 6  # of the block table, see `decode_attention`
LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class AttentionSizes:
    """Sizes of attention.

    Attributes:
        num_heads: query heads.
        num_kv_heads: key and value heads; `num_heads` is a multiple of it.
        head_dim: a power of two, at least 32.
        splits: parts that a request's keys are split into.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    splits: int


def allocate_workspace(rows: int, sizes: AttentionSizes, device: torch.device) -> Tensor:
    """Memory for the partial results: float32 `[rows, num_heads, splits, head_dim + 2]`.

    The last dimension holds a split's largest score, sum of weights, and weighted sum of values.
    """
    shape = (rows, sizes.num_heads, sizes.splits, sizes.head_dim + 2)
    return torch.empty(shape, dtype=torch.float32, device=device)


def kv_block(dtype: torch.dtype) -> int:
    """Keys per iteration of a program, for queries of this dtype."""
    return KV_BLOCK // 2 if dtype == torch.float32 else KV_BLOCK


def decode_attention(
    qkv: Tensor, block_table: Tensor, layers: int, layer: int, cos: Tensor, sin: Tensor, sizes: AttentionSizes,
    workspace: Tensor, out: Tensor, *, quantized: bool,
) -> None:  # fmt: skip
    """Append one position to every cache and attend to all its positions, into `out`.

    Args:
        qkv: `[rows, (num_heads + 2 * num_kv_heads) * head_dim]`, contiguous: queries, keys, values, before RoPE.
        block_table: int64 `[rows, TABLE_COLUMNS]`: addresses of a cache's keys, values and scales (0 if not quantised),
            its capacity, its length, and the increment of its length per step (not read here).
        layers: number of layers in the caches, `[layers, num_kv_heads, capacity, head_dim]`.
        layer: the index of this one.
        cos, sin: `[rows, head_dim]`, contiguous, for each row's new position (`layers.rope`).
        sizes: of the heads.
        workspace: from `allocate_workspace`.
        out: `[rows, num_heads * head_dim]`, contiguous.
        quantized: the caches are int8, with scales `[2, layers, num_kv_heads, capacity]` in the dtype of qkv.
    """
    rows = qkv.shape[0]
    heads_per_kv_head = sizes.num_heads // sizes.num_kv_heads
    _split_kernel[(sizes.splits, sizes.num_kv_heads, rows)](
        qkv, block_table, cos, sin, workspace, layers, layer, sizes.head_dim**-0.5 * LOG2_E,
        HEADS=sizes.num_heads, KV_HEADS=sizes.num_kv_heads, HEAD_DIM=sizes.head_dim, SPLITS=sizes.splits,
        QUANTIZED=quantized, KV_BLOCK=kv_block(qkv.dtype),
        M_BLOCK=max(MIN_ROWS, triton.next_power_of_2(heads_per_kv_head)), num_warps=4,
    )  # fmt: skip
    _reduce_kernel[(sizes.num_heads, rows)](
        workspace, out, HEADS=sizes.num_heads, HEAD_DIM=sizes.head_dim, SPLITS=sizes.splits, num_warps=4
    )


@triton.jit(do_not_specialize=["layers", "layer"])  # one compiled kernel for all layers
def _split_kernel(
    qkv, block_table, cosines, sines, partials, layers, layer, score_scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, SPLITS: tl.constexpr,
    QUANTIZED: tl.constexpr, KV_BLOCK: tl.constexpr, M_BLOCK: tl.constexpr,
):  # fmt: skip
    """Attention of one KV head's query heads over one split of a request's keys; split 0 also takes the new key."""
    split, kv_head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    HALF: tl.constexpr = HEAD_DIM // 2
    HEADS_PER_KV: tl.constexpr = HEADS // KV_HEADS
    dtype = qkv.dtype.element_ty
    entry = block_table + row * 6
    capacity, length = tl.load(entry + 3), tl.load(entry + 4)
    split_size = tl.cdiv(tl.cdiv(length, SPLITS), KV_BLOCK) * KV_BLOCK
    begin = split * split_size
    end = tl.minimum(begin + split_size, length)
    head, half, dim = tl.arange(0, M_BLOCK), tl.arange(0, HALF), tl.arange(0, HEAD_DIM)
    cos = tl.load(cosines + row * HEAD_DIM + half).to(tl.float32)  # the second half is the same
    sin = tl.load(sines + row * HEAD_DIM + half).to(tl.float32)
    row_qkv = qkv + row * (HEADS + 2 * KV_HEADS) * HEAD_DIM
    q1, q2 = _rotated_queries(row_qkv + kv_head * HEADS_PER_KV * HEAD_DIM, cos, sin, HEADS_PER_KV, HEAD_DIM, M_BLOCK)
    offset = (layer * KV_HEADS + kv_head) * capacity  # in positions; int64, as the capacity is
    stored = tl.int8 if QUANTIZED else dtype
    keys = tl.load(entry).to(tl.pointer_type(stored)) + offset * HEAD_DIM
    values = tl.load(entry + 1).to(tl.pointer_type(stored)) + offset * HEAD_DIM
    keys, values = tl.multiple_of(keys, 16), tl.multiple_of(values, 16)  # 16-byte aligned: allows vector loads
    k_scales = tl.load(entry + 2).to(tl.pointer_type(dtype)) + offset
    v_scales = k_scales + layers * KV_HEADS * capacity
    largest = tl.full([M_BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([M_BLOCK], tl.float32)
    acc = tl.zeros([M_BLOCK, HEAD_DIM], tl.float32)
    if split == 0:
        k = row_qkv + (HEADS + kv_head) * HEAD_DIM
        k1, k2, v = _append_kv(k, keys, values, k_scales, v_scales, cos, sin, length, KV_HEADS, HEAD_DIM, QUANTIZED)
        largest = score_scale * tl.sum(q1.to(tl.float32) * k1[None, :] + q2.to(tl.float32) * k2[None, :], 1)
        total += 1.0
        acc += v[None, :]
    for start in range(begin, end, KV_BLOCK):
        position = start + tl.arange(0, KV_BLOCK)
        mask = position < end
        address = position[:, None] * HEAD_DIM
        block_k1 = tl.load(keys + address + half[None, :], mask=mask[:, None], other=0)
        block_k2 = tl.load(keys + address + HALF + half[None, :], mask=mask[:, None], other=0)
        block_v = tl.load(values + address + dim[None, :], mask=mask[:, None], other=0)
        score = tl.dot(q1, tl.trans(block_k1.to(dtype)), input_precision="ieee")
        score = tl.dot(q2, tl.trans(block_k2.to(dtype)), score, input_precision="ieee") * score_scale
        if QUANTIZED:
            score *= tl.load(k_scales + position, mask=mask, other=0.0).to(tl.float32)[None, :]
        score = tl.where(mask[None, :], score, -float("inf"))  # [M_BLOCK, KV_BLOCK]
        new_largest = tl.maximum(largest, tl.max(score, 1))
        weight = tl.exp2(score - new_largest[:, None])
        rescale = tl.exp2(largest - new_largest)
        total = total * rescale + tl.sum(weight, 1)
        if QUANTIZED:
            weight *= tl.load(v_scales + position, mask=mask, other=0.0).to(tl.float32)[None, :]
        acc = acc * rescale[:, None] + tl.dot(weight.to(dtype), block_v.to(dtype), input_precision="ieee")
        largest = new_largest
    place = ((row * HEADS + kv_head * HEADS_PER_KV + head) * SPLITS + split) * (HEAD_DIM + 2)
    tl.store(partials + place, largest, mask=head < HEADS_PER_KV)
    tl.store(partials + place + 1, total, mask=head < HEADS_PER_KV)
    tl.store(partials + place[:, None] + 2 + dim[None, :], acc, mask=(head < HEADS_PER_KV)[:, None])


@triton.jit
def _rotated_queries(
    queries, cos, sin, HEADS_PER_KV: tl.constexpr, HEAD_DIM: tl.constexpr, M_BLOCK: tl.constexpr
):  # fmt: skip
    """Both halves `[M_BLOCK, HEAD_DIM // 2]` of a KV head's queries behind RoPE; rows past HEADS_PER_KV are 0."""
    HALF: tl.constexpr = HEAD_DIM // 2
    head = tl.arange(0, M_BLOCK)[:, None]
    at = queries + head * HEAD_DIM + tl.arange(0, HALF)[None, :]
    first = tl.load(at, mask=head < HEADS_PER_KV, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=head < HEADS_PER_KV, other=0.0).to(tl.float32)
    dtype = queries.dtype.element_ty
    return (first * cos[None] - second * sin[None]).to(dtype), (second * cos[None] + first * sin[None]).to(dtype)


@triton.jit
def _append_kv(
    new, keys, values, k_scales, v_scales, cos, sin, length,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, QUANTIZED: tl.constexpr,
):  # fmt: skip
    """Append the new key and value to the cache; returns both halves of the rotated key, and the value, as float32.

    No program reads the new position from the cache in this step, so no synchronisation is needed.
    """
    HALF: tl.constexpr = HEAD_DIM // 2
    half, dim = tl.arange(0, HALF), tl.arange(0, HEAD_DIM)
    dtype = new.dtype.element_ty
    stored = keys.dtype.element_ty
    n1, n2 = tl.load(new + half).to(tl.float32), tl.load(new + half + HALF).to(tl.float32)
    k1, k2 = (n1 * cos - n2 * sin).to(dtype).to(tl.float32), (n2 * cos + n1 * sin).to(dtype).to(tl.float32)
    v = tl.load(new + KV_HEADS * HEAD_DIM + dim).to(tl.float32)
    key_scale, value_scale = 1.0, 1.0
    if QUANTIZED:
        key_scale = (tl.maximum(tl.max(tl.abs(k1), 0), tl.max(tl.abs(k2), 0)) / 127).to(dtype).to(tl.float32)
        value_scale = (tl.max(tl.abs(v), 0) / 127).to(dtype).to(tl.float32)
        k1, k2, v = _quantize(k1, key_scale), _quantize(k2, key_scale), _quantize(v, value_scale)
        tl.store(k_scales + length, key_scale.to(dtype))
        tl.store(v_scales + length, value_scale.to(dtype))
    tl.store(keys + length * HEAD_DIM + half, k1.to(stored))
    tl.store(keys + length * HEAD_DIM + HALF + half, k2.to(stored))
    tl.store(values + length * HEAD_DIM + dim, v.to(stored))
    return k1 * key_scale, k2 * key_scale, v * value_scale


@triton.jit
def _quantize(x, scale):
    """int8 values as float32, rounded half to even as PyTorch does."""
    divisor = tl.where(scale > 0, scale, 1.0)
    integer = (x / divisor + 12582912.0) - 12582912.0  # adding 1.5 * 2**23 rounds a float32 to an integer
    return tl.minimum(tl.maximum(integer, -127.0), 127.0)


@triton.jit
def _reduce_kernel(partials, out, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, SPLITS: tl.constexpr):
    """Combine the splits of one head into its attention output."""
    head, row = tl.program_id(0), tl.program_id(1)
    split, dim = tl.arange(0, SPLITS), tl.arange(0, HEAD_DIM)
    place = partials + ((row * HEADS + head) * SPLITS + split) * (HEAD_DIM + 2)
    largest = tl.load(place)
    rescale = tl.exp2(largest - tl.max(largest, 0))  # 0 for a split without keys
    total = tl.sum(rescale * tl.load(place + 1), 0)
    acc = tl.sum(rescale[:, None] * tl.load(place[:, None] + 2 + dim[None, :]), 0)
    tl.store(out + (row * HEADS + head) * HEAD_DIM + dim, (acc / total).to(out.dtype.element_ty))
