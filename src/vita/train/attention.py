"""Attention for training: matmuls and a softmax in chunks on a CPU, PyTorch's kernels on CUDA.

On a CPU the scores of a chunk stay in the cache between the matmuls that make them and those that use them, and are
computed again in the backward pass: on two cores this is faster than the backward pass of scaled_dot_product_attention,
and than one matmul over all of the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vita.layers.attention import Attend, causal_mask

CHUNK = 1 << 20  # scores made at a time: about two MiB in bfloat16


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Scaled queries `[B, h*n, d]` (heads that share keys), keys and values `[B, M, d]`, bias `[B, 1, n, M]`."""
        out = torch.empty_like(q)
        step = max(1, CHUNK // (q.shape[1] * k.shape[1]))
        for at in range(0, q.shape[0], step):
            part = slice(at, at + step)
            out[part] = _weights(q, k, bias, part) @ v[part]
        ctx.save_for_backward(q, k, v, *(() if bias is None else (bias,)))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *rest = ctx.saved_tensors
        bias, grad = (rest[0] if rest else None), grads[0].contiguous()
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        step = max(1, CHUNK // (q.shape[1] * k.shape[1]))
        for at in range(0, q.shape[0], step):
            part = slice(at, at + step)
            weights = _weights(q, k, bias, part)
            torch.bmm(weights.transpose(1, 2), grad[part], out=dv[part])
            upstream = grad[part] @ v[part].transpose(1, 2)
            scores = torch._softmax_backward_data(upstream, weights, -1, weights.dtype)
            torch.bmm(scores, k[part], out=dq[part])
            torch.bmm(scores.transpose(1, 2), q[part], out=dk[part])
        return dq, dk, dv, None


def _weights(q: Tensor, k: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    scores = q[part] @ k[part].transpose(1, 2)
    if bias is not None:
        rows = bias.shape[2]
        scores.view(len(scores), -1, rows, scores.shape[-1]).add_(bias[part])
    return scores.softmax(-1)


def chunked_attend(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """`vita.layers.attention.attend` with a fast backward pass on a CPU."""
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (t.to(torch.get_autocast_dtype(q.device.type)) for t in (q, k, v))
    batch, heads, queries, width = q.shape
    groups, keys = k.shape[1], k.shape[2]
    share = heads // groups  # queries of the heads that share keys are one long row of queries
    factor = width**-0.5 if scale is None else scale
    if causal and mask is None:
        mask = causal_mask(queries, keys - queries, q.device)
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, device=q.device, dtype=q.dtype).masked_fill_(~mask, -1e9)
        bias = bias.expand(batch, groups, queries, keys).reshape(batch * groups, 1, queries, keys)
    rows = (q * factor).reshape(batch * groups, share * queries, width)
    flat = k.reshape(batch * groups, keys, width), v.reshape(batch * groups, keys, v.shape[-1])
    out: Tensor = _Chunked.apply(rows, *flat, bias)  # type: ignore[no-untyped-call]  # of PyTorch
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
    return chunked_attend if device.type == "cpu" else fused_attend
