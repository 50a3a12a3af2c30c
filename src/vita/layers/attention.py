"""One attention interface for encoders and decoder, over PyTorch's scaled_dot_product_attention.

Owns the choice of the number format attention runs in. Does not know about caches, rotary angles or masks'
meaning: it is handed queries, keys, values and, if need be, a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Attend: TypeAlias = Callable[..., Tensor]  # a function called as `attend` is


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Softmax attention.

    Args:
        q: `[batch, heads, queries, d]`.
        k: `[batch, kv_heads, keys, d]`; `heads` is a multiple of `kv_heads` (grouped queries).
        v: `[batch, kv_heads, keys, dv]`.
        mask: bool `[batch or 1, heads or 1, queries, keys]`, True where a query may look; None: everywhere.
        causal: query i sees keys 0..i; only where queries = keys, without `mask`.
        scale: factor on the scores, default `d ** -0.5`.

    Returns:
        `[batch, heads, queries, dv]` in the dtype of `q`.
    """
    dtype = q.dtype
    if q.device.type == "cpu" and dtype != torch.float32 and not _cpu_multiplies(dtype):
        q, k, v = q.float(), k.float(), v.float()
    heads, groups, queries = q.shape[1], k.shape[1], q.shape[2]
    if heads != groups and queries == 1 and mask is None and q.device.type == "cpu":
        # Heads that share keys as queries of one head: the kernel reads keys and values once, not once a head.
        together = functional.scaled_dot_product_attention(
            q.reshape(len(q), groups, heads // groups, -1), k, v, scale=scale
        )
        return together.reshape(len(q), heads, 1, -1).to(dtype)
    grouped = heads != groups
    out = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )
    return out.to(dtype)


def _cpu_multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for the dtype; without them the kernels fall back to scalar loops."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
