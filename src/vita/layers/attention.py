"""Softmax attention for encoders and decoder: choose the kernel and dtype.

Runs the native CPU kernel, FlashAttention on CUDA, or PyTorch's `scaled_dot_product_attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from vita.kernels.cpu.bindings import bf16_kernels
from vita.kernels.torch_ops import torch_ops
from vita.runtime.cpu_features import cpu_features

# Of `scaled_dot_product_attention` on CUDA, without cuDNN, which takes 40 ms to plan for every new prompt length. MATH
# takes what the others refuse.
CUDA_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

Attend: TypeAlias = Callable[..., Tensor]  # the signature of `attend`


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Softmax attention.

    Args:
        q: `[batch, heads, queries, d]`.
        k: `[batch, kv_heads, keys, d]`; `heads` is a multiple of `kv_heads` (grouped queries).
        v: `[batch, kv_heads, keys, dv]`.
        mask: bool `[batch or 1, heads or 1, queries, keys]`, True where a query attends; None: all keys.
        causal: the queries are at the last positions of the keys, and attend to no later key. Not with `mask`.
        scale: factor on the scores; default `d ** -0.5`.

    Returns:
        `[batch, heads, queries, dv]` in the dtype of `q`.
    """
    heads, kv_heads = q.shape[1], k.shape[1]
    if heads != kv_heads and q.shape[2] == 1 and mask is None and q.device.type == "cpu":
        # Treat the query heads of a KV head as queries of one head: each key and value is read once, not once a head.
        grouped = attend(q.reshape(len(q), kv_heads, heads // kv_heads, -1), k, v, scale=scale)
        return grouped.reshape(len(q), heads, 1, -1)
    native = bf16_kernels(q, k) if mask is None and q.shape[2] > 1 else None
    out = native.flash_attention(q, k, v, causal, q.shape[-1] ** -0.5 if scale is None else scale) if native else None
    if out is not None:
        return out
    if causal and q.shape[2] < k.shape[2]:
        if q.device.type == "cuda":
            return attend_cached_prefix(q, k, v, scale)
        mask, causal = causal_mask(q.shape[2], k.shape[2] - q.shape[2], q.device), False
    return _pytorch(q, k, v, mask, causal, scale)


def attend_cached_prefix(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """Causal attention on CUDA of queries at the last positions of the keys; shapes as in `attend`.

    Keys and values are repeated for the query heads, since not every fast kernel supports grouped queries. With
    FlashAttention no mask is built. `torch.nn.attention.bias` does the same, but its import loads PyTorch's compiler,
    which takes seconds.
    """
    repeats = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(repeats, dim=1) if repeats > 1 else t for t in (k, v))
    if _has_flash(q):
        # This kernel aligns its causal mask to the lower right: the queries are at the last positions of the keys.
        out = torch_ops().causal_flash_attention(q, k, v, scale)
        if out is not None:
            return out
    return _pytorch(q, k, v, causal_mask(q.shape[2], k.shape[2] - q.shape[2], q.device), causal=False, scale=scale)


def _has_flash(q: Tensor) -> bool:
    half = q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] % 8 == 0
    return half and q.device.type == "cuda" and torch.cuda.get_device_capability(q.device) >= (8, 0)


def causal_mask(n: int, past: int, device: torch.device) -> Tensor:
    """bool `[1, 1, n, past + n]` for `n` new positions after `past` cached ones."""
    keys = torch.arange(past + n, device=device)
    queries = torch.arange(past, past + n, device=device)
    return (keys[None, :] <= queries[:, None])[None, None]


def _pytorch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    dtype = q.dtype
    if q.device.type == "cpu" and dtype != torch.float32 and not cpu_features().has_gemm(dtype):
        q, k, v = q.float(), k.float(), v.float()
    grouped, value_size = q.shape[1] != k.shape[1], v.shape[-1]
    if q.device.type == "cpu" and value_size < q.shape[-1]:
        # The CPU's fused kernel needs values of the size of the keys; without it all scores are held in memory.
        v = functional.pad(v, (0, q.shape[-1] - value_size))
    with choose_backends(q.device):
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
        )
    return out[..., :value_size].to(dtype)


def choose_backends(device: torch.device) -> AbstractContextManager[object]:
    """Which of PyTorch's attention kernels may run: on CUDA `CUDA_BACKENDS`, elsewhere PyTorch's own choice."""
    return sdpa_kernel(CUDA_BACKENDS) if device.type == "cuda" else nullcontext()
