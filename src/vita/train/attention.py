"""Attention for training: matmuls and a softmax in chunks on a CPU, PyTorch's kernels on CUDA.

On a CPU the scores of a chunk stay in the cache between the matmuls that make them and those that use them, and are
computed again in the backward pass: on two cores this is faster than the backward pass of scaled_dot_product_attention,
and than one matmul over all of the batch. Where a mask is given, a block of queries is multiplied with only those keys
that one of them attends to: in rows of a prefix and segments (`vita.train.packing`) that is half of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vita.layers.attention import Attend, causal_mask

CHUNK = 1 << 20  # scores made at a time: about two MiB in bfloat16
QUERIES = 128  # of a block, under a mask


@dataclass(frozen=True)
class Block:
    """Queries that are multiplied together.

    Attributes:
        rows: of the queries.
        keys: those that some of the queries attend to; int64 `[keys]` where they do not stand in one piece.
        bias: `[B, 1, rows, keys]`, added to the scores; None where every query attends to every key.
    """

    rows: slice
    keys: slice | Tensor
    bias: Tensor | None


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: Sequence[Block]) -> Tensor:
        """Scaled queries `[B, share, n, d]` (heads that share keys), keys and values `[B, M, d]`."""
        out = torch.empty_like(q)
        for block in blocks:
            kept, seen = k[:, block.keys], v[:, block.keys]
            for part in _parts(q, block, kept.shape[1]):
                asked = q[part, :, block.rows]
                out[part, :, block.rows] = (_weights(asked, kept, block, part) @ seen[part]).view_as(asked)
        ctx.blocks = blocks
        ctx.save_for_backward(q, k, v)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block in ctx.blocks:
            kept, seen = k[:, block.keys], v[:, block.keys]
            for part in _parts(q, block, kept.shape[1]):
                asked = q[part, :, block.rows]
                flat = asked.reshape(len(asked), -1, q.shape[-1])
                grad = grads[0][part, :, block.rows].reshape(len(asked), -1, v.shape[-1])
                weights = _weights(asked, kept, block, part)
                upstream = grad @ seen[part].transpose(1, 2)
                scores = torch._softmax_backward_data(upstream, weights, -1, weights.dtype)
                dq[part, :, block.rows] = (scores @ kept[part]).view_as(asked)
                dk[part, block.keys] += scores.transpose(1, 2) @ flat
                dv[part, block.keys] += weights.transpose(1, 2) @ grad
        return dq, dk, dv, None


def _parts(q: Tensor, block: Block, keys: int) -> Iterator[slice]:
    """Parts of the batch whose scores fit into a chunk."""
    asked = q.shape[1] * (min(block.rows.stop, q.shape[2]) - block.rows.start)
    step = max(1, CHUNK // (asked * keys))
    for first in range(0, q.shape[0], step):
        yield slice(first, first + step)


def _weights(asked: Tensor, keys: Tensor, block: Block, part: slice) -> Tensor:
    """`[B, share * n, M]` of queries `[B, share, n, d]`."""
    scores = asked.reshape(len(asked), -1, asked.shape[-1]) @ keys[part].transpose(1, 2)
    if block.bias is not None:
        scores.view(*asked.shape[:3], -1).add_(block.bias[part])
    return scores.softmax(-1)


def blocks_of(mask: Tensor, dtype: torch.dtype) -> tuple[Block, ...]:
    """Blocks of a bool mask `[B, 1, n, M]`, in which every query attends to some key."""
    made = []
    for first in range(0, mask.shape[2], QUERIES):
        rows = slice(first, first + QUERIES)
        attended = mask[:, 0, rows].flatten(0, 1).any(0).nonzero()[:, 0]
        keys = slice(0, len(attended)) if int(attended[-1]) + 1 == len(attended) else attended
        seen = mask[:, :, rows][..., keys]
        bias = torch.zeros(seen.shape, device=mask.device, dtype=dtype).masked_fill_(~seen, -1e9)
        made.append(Block(rows, keys, bias))
    return tuple(made)


class ChunkedAttention:
    """`vita.layers.attention.attend` with a fast backward pass on a CPU; under a mask every query attends to some key.

    The layers of a decoder share one: the blocks of a mask are made by the first layer that comes with it.
    """

    def __init__(self) -> None:
        self._mask: tuple[Tensor, torch.dtype] | None = None
        self._blocks: tuple[Block, ...] = ()

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        if torch.is_autocast_enabled(q.device.type):
            q, k, v = (t.to(torch.get_autocast_dtype(q.device.type)) for t in (q, k, v))
        batch, heads, queries, width = q.shape
        groups, keys = k.shape[1], k.shape[2]
        factor = width**-0.5 if scale is None else scale
        if causal and mask is None:
            mask = causal_mask(queries, keys - queries, q.device)
        blocks: Sequence[Block] = (Block(slice(0, queries), slice(None), None),)
        if mask is not None:
            if self._mask is None or self._mask[0] is not mask or self._mask[1] != q.dtype:
                wide = mask.expand(batch, 1, queries, keys).repeat_interleave(groups, dim=0)
                self._mask, self._blocks = (mask, q.dtype), blocks_of(wide, q.dtype)
            blocks = self._blocks
        # Queries of the heads that share keys are multiplied together.
        rows = (q * factor).reshape(batch * groups, heads // groups, queries, width)
        flat = k.reshape(batch * groups, keys, width), v.reshape(batch * groups, keys, v.shape[-1])
        out: Tensor = _Chunked.apply(rows, *flat, blocks)  # type: ignore[no-untyped-call]  # of PyTorch
        return out.view(batch, heads, queries, v.shape[-1])


def fused_attend(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """`vita.layers.attention.attend` by PyTorch's fused kernels, without a branch that a compiler would stop at.

    Keys and values are repeated for the query heads: the kernels that take a mask know no grouped queries.
    """
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (t.to(torch.get_autocast_dtype(q.device.type)) for t in (q, k, v))
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and mask is None,
                                                   scale=scale)  # fmt: skip


def training_attend(device: torch.device) -> Attend:
    """The attention to train with on a device."""
    return ChunkedAttention() if device.type == "cpu" else fused_attend
