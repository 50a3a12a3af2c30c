"""Attention of a short prefill on CUDA, whose KV cache is found through a block table on the device.

For prefills that are recorded as CUDA graphs (`engine.cuda_graphs`): all that changes from one to the next (the cache's
addresses, its length, how many of the recorded rows are real) is in device memory. Three launches a layer: rotate and
split queries, keys and values; append keys and values; attend.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vita.kernels.triton.decode_attention import LOG2_E, AttentionSizes, _quantize, kv_block

M_BLOCK = 32  # queries of a program


def rope_qkv(qkv: Tensor, cos: Tensor, sin: Tensor, sizes: AttentionSizes) -> tuple[Tensor, Tensor, Tensor]:
    """Split fused rows into queries, keys and values, and apply RoPE to the first two.

    Args:
        qkv: `[rows, (num_heads + 2 * num_kv_heads) * head_dim]`, contiguous.
        cos, sin: `[rows, head_dim]`, contiguous, the second half equal to the first (`layers.rope`).
        sizes: of the heads.

    Returns:
        `[1, num_heads, rows, head_dim]`, and twice `[1, num_kv_heads, rows, head_dim]`, contiguous.
    """
    rows = len(qkv)
    q = torch.empty(1, sizes.num_heads, rows, sizes.head_dim, dtype=qkv.dtype, device=qkv.device)
    k, v = (torch.empty(1, sizes.num_kv_heads, rows, sizes.head_dim, dtype=q.dtype, device=q.device) for _ in "kv")
    with torch.cuda.device_of(qkv):
        _rope_qkv_kernel[(rows, sizes.num_heads + 2 * sizes.num_kv_heads)](
            qkv, cos, sin, q, k, v, rows, HEADS=sizes.num_heads, KV_HEADS=sizes.num_kv_heads, HEAD_DIM=sizes.head_dim,
            num_warps=2,
        )  # fmt: skip
    return q, k, v


def append_kv(k: Tensor, v: Tensor, block_table: Tensor, layers: int, layer: int, *, quantized: bool) -> None:
    """Write keys and values behind the cache's length; rows beyond the count are left out.

    Args:
        k, v: `[1, num_kv_heads, rows, head_dim]`, contiguous.
        block_table: int64 `[TABLE_COLUMNS]`: addresses of the cache's keys, values and scales (0 if not quantised), its
            capacity, its length, and the count of real rows.
        layers: of the cache.
        layer: the index of this one.
        quantized: the cache is int8.
    """
    _, kv_heads, rows, head_dim = k.shape
    with torch.cuda.device_of(k):
        _append_kernel[(rows, kv_heads)](
            k, v, block_table, rows, layers, layer, KV_HEADS=kv_heads, HEAD_DIM=head_dim, QUANTIZED=quantized,
            num_warps=2,
        )  # fmt: skip


def prefill_attention(
    q: Tensor, block_table: Tensor, layers: int, layer: int, sizes: AttentionSizes, *, quantized: bool
) -> Tensor:
    """Causal attention of rows that `append_kv` has just appended, to the whole cache: `[rows, num_heads * head_dim]`.

    Rows beyond the count are zeros.

    Args:
        q: `[1, num_heads, rows, head_dim]`, contiguous, rotated.
        block_table, layers, layer, quantized: as in `append_kv`.
        sizes: of the heads.
    """
    rows = q.shape[2]
    out = torch.empty(rows, sizes.num_heads * sizes.head_dim, dtype=q.dtype, device=q.device)
    with torch.cuda.device_of(q):
        _prefill_kernel[(triton.cdiv(rows, M_BLOCK), sizes.num_heads)](
            q, block_table, out, rows, layers, layer, sizes.head_dim**-0.5 * LOG2_E, HEADS=sizes.num_heads,
            KV_HEADS=sizes.num_kv_heads, HEAD_DIM=sizes.head_dim, QUANTIZED=quantized, M_BLOCK=M_BLOCK,
            KV_BLOCK=kv_block(q.dtype), num_warps=4,
        )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["rows"])
def _rope_qkv_kernel(
    qkv, cos, sin, q, k, v, rows, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    HALF: tl.constexpr = HEAD_DIM // 2
    half = tl.arange(0, HALF)
    source = qkv + (row * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM + half
    first, second = tl.load(source), tl.load(source + HALF)
    if head >= HEADS + KV_HEADS:
        target = v + ((head - HEADS - KV_HEADS) * rows + row) * HEAD_DIM + half
        tl.store(target, first)
        tl.store(target + HALF, second)
    else:
        c = tl.load(cos + row * HEAD_DIM + half).to(tl.float32)
        s = tl.load(sin + row * HEAD_DIM + half).to(tl.float32)
        x1, x2 = first.to(tl.float32), second.to(tl.float32)
        r1, r2 = (x1 * c - x2 * s).to(first.dtype), (x2 * c + x1 * s).to(first.dtype)
        if head < HEADS:
            target = q + (head * rows + row) * HEAD_DIM + half
        else:
            target = k + ((head - HEADS) * rows + row) * HEAD_DIM + half
        tl.store(target, r1)
        tl.store(target + HALF, r2)


@triton.jit(do_not_specialize=["rows", "layers", "layer"])
def _append_kernel(
    k, v, block_table, rows, layers, layer,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, QUANTIZED: tl.constexpr,
):  # fmt: skip
    row, kv_head = tl.program_id(0), tl.program_id(1)
    if row < tl.load(block_table + 5):
        dim = tl.arange(0, HEAD_DIM)
        dtype = k.dtype.element_ty
        capacity = tl.load(block_table + 3)
        position = (layer * KV_HEADS + kv_head) * capacity + tl.load(block_table + 4) + row
        source = (kv_head * rows + row) * HEAD_DIM + dim
        ks, vs = tl.load(k + source), tl.load(v + source)
        stored = tl.int8 if QUANTIZED else dtype
        keys = tl.load(block_table).to(tl.pointer_type(stored)) + position * HEAD_DIM + dim
        values = tl.load(block_table + 1).to(tl.pointer_type(stored)) + position * HEAD_DIM + dim
        if QUANTIZED:
            kf, vf = ks.to(tl.float32), vs.to(tl.float32)
            key_scale = (tl.max(tl.abs(kf), 0) / 127).to(dtype).to(tl.float32)
            value_scale = (tl.max(tl.abs(vf), 0) / 127).to(dtype).to(tl.float32)
            scales = tl.load(block_table + 2).to(tl.pointer_type(dtype)) + position
            tl.store(scales, key_scale.to(dtype))
            tl.store(scales + layers * KV_HEADS * capacity, value_scale.to(dtype))
            tl.store(keys, _quantize(kf, key_scale).to(tl.int8))
            tl.store(values, _quantize(vf, value_scale).to(tl.int8))
        else:
            tl.store(keys, ks)
            tl.store(values, vs)


@triton.jit(do_not_specialize=["rows", "layers", "layer"])
def _prefill_kernel(
    q, block_table, out, rows, layers, layer, score_scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, QUANTIZED: tl.constexpr,
    M_BLOCK: tl.constexpr, KV_BLOCK: tl.constexpr,
):  # fmt: skip
    """Attention of M_BLOCK queries of one head."""
    head = tl.program_id(1)
    row = tl.program_id(0) * M_BLOCK + tl.arange(0, M_BLOCK)
    dim = tl.arange(0, HEAD_DIM)
    dtype = q.dtype.element_ty
    capacity, length, count = tl.load(block_table + 3), tl.load(block_table + 4), tl.load(block_table + 5)
    m_mask = row < count
    queries = tl.load(q + (head * rows + row)[:, None] * HEAD_DIM + dim[None, :], mask=m_mask[:, None], other=0.0)
    offset = (layer * KV_HEADS + head // (HEADS // KV_HEADS)) * capacity  # in positions; int64, as the capacity is
    stored = tl.int8 if QUANTIZED else dtype
    keys = tl.load(block_table).to(tl.pointer_type(stored)) + offset * HEAD_DIM
    values = tl.load(block_table + 1).to(tl.pointer_type(stored)) + offset * HEAD_DIM
    keys, values = tl.multiple_of(keys, 16), tl.multiple_of(values, 16)  # 16-byte aligned: allows vector loads
    k_scales = tl.load(block_table + 2).to(tl.pointer_type(dtype)) + offset
    v_scales = k_scales + layers * KV_HEADS * capacity
    largest = tl.full([M_BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([M_BLOCK], tl.float32)
    acc = tl.zeros([M_BLOCK, HEAD_DIM], tl.float32)
    end = length + tl.minimum(count, (tl.program_id(0) + 1) * M_BLOCK)
    for start in range(0, end, KV_BLOCK):
        position = start + tl.arange(0, KV_BLOCK)
        k_mask = position < end
        address = position[:, None] * HEAD_DIM + dim[None, :]
        block_k = tl.load(keys + address, mask=k_mask[:, None], other=0)
        block_v = tl.load(values + address, mask=k_mask[:, None], other=0)
        score = tl.dot(queries, tl.trans(block_k.to(dtype)), input_precision="ieee") * score_scale
        if QUANTIZED:
            score *= tl.load(k_scales + position, mask=k_mask, other=0.0).to(tl.float32)[None, :]
        # Key 0 is visible to every row, so no row is without keys in its first block.
        score = tl.where(position[None, :] <= (length + row)[:, None], score, -float("inf"))
        new_largest = tl.maximum(largest, tl.max(score, 1))
        weight = tl.exp2(score - new_largest[:, None])
        rescale = tl.exp2(largest - new_largest)
        total = total * rescale + tl.sum(weight, 1)
        if QUANTIZED:
            weight *= tl.load(v_scales + position, mask=k_mask, other=0.0).to(tl.float32)[None, :]
        acc = acc * rescale[:, None] + tl.dot(weight.to(dtype), block_v.to(dtype), input_precision="ieee")
        largest = new_largest
    # Rows beyond the count become zeros, whatever was summed: in a block without real rows that is nothing.
    ys = tl.where(m_mask[:, None], acc / tl.where(m_mask, total, 1.0)[:, None], 0.0)
    tl.store(out + (row[:, None] * HEADS + head) * HEAD_DIM + dim[None, :], ys.to(dtype), mask=(row < rows)[:, None])
