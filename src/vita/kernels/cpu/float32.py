"""The float32 kernels: a whole decode step, its attention for all requests, RMSNorm and rotary position embedding.

A program of its own, which compiles in two seconds: a small model answers in float32, and its first answer on a new
machine shall not wait for the kernels of large models. Where there is no compiler, PyTorch attends for one request
after another.
"""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vita.kernels.cpu.block_table import BlockTable, address
from vita.kernels.cpu.compile import Program, load_library, open_library
from vita.kernels.cpu.decode_step import DecoderStruct
from vita.kernels.cpu.signatures import FLOAT32_SIGNATURES, bind

log = logging.getLogger("vita")
_HERE = Path(__file__).parent
FLOAT32_PROGRAM = Program(
    tuple(_HERE / f"{name}.c" for name in ("decode_attention_f32", "decode_step_f32", "elementwise_f32")),
    tuple(_HERE / f"{name}.h" for name in ("float32", "floats", "splits", "vectors_f32", "weights")),
)


class Float32Kernels:
    """The compiled functions on CPU tensors.

    Args:
        library: compiled from `FLOAT32_PROGRAM`; its functions are declared here.

    Raises:
        InterfaceError: a function is missing.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        bind(library, FLOAT32_SIGNATURES)
        self._library = library

    def supports(self, head_dim: int) -> bool:
        """Whether attention has heads of this width."""
        return bool(self._library.vita_decode_attention_f32_supports(head_dim))

    def decode_step(self, decoder: DecoderStruct, x: Tensor, caches: BlockTable) -> Tensor:
        """Append one position to every cache, from its embedding to its logits.

        Args:
            decoder: with rotary tables for the longest cache.
            x: float32 `[requests, hidden]`, contiguous; overwritten.
            caches: one per request, float32.

        Returns:
            `[requests, vocab]`. A row is bit-identical whatever the other requests are.

        Raises:
            ValueError: the caches are not float32.
        """
        if caches.plain_dtype != torch.float32 or len(caches.lengths) != len(x):
            raise ValueError("the KV caches are not float32, or not one for each row")
        struct, rows = ctypes.byref(decoder.struct), len(x)
        nbytes = self._library.vita_decode_step_f32_workspace(struct, caches.lengths, rows)
        logits, workspace = x.new_empty(rows, decoder.vocab), torch.empty(nbytes, dtype=torch.uint8, device=x.device)
        self._library.vita_decode_step_f32(
            struct, address(x), caches.keys, caches.values, caches.lengths, caches.capacities, address(logits),
            address(workspace), rows,
        )  # fmt: skip
        return logits

    def decode_attention(self, q: Tensor, k: Tensor, v: Tensor, caches: BlockTable, layer: int) -> Tensor | None:
        """Append one position to every cache and attend to all of it; None where the kernel does not apply.

        Args:
            q: float32 or bfloat16 `[requests, heads, 1, d]`, any strides.
            k, v: `[requests, kv_heads, 1, d]` in the dtype of q, any strides.
            caches: one per request, all of one model, in the dtype of q.
            layer: index of the layer in the caches.

        Returns:
            `[requests, heads, 1, d]` in the dtype of q, computed in float32. A row is bit-identical whatever the other
            requests are.
        """
        (requests, heads, _, d), kv_heads, dtype = q.shape, k.shape[1], q.dtype
        known = dtype in (torch.float32, torch.bfloat16) and caches.plain_dtype == dtype == k.dtype == v.dtype
        if not (known and self.supports(d)) or not caches.matches(q, k, v):
            return None
        q, k, v = q.float().contiguous(), k.contiguous(), v.contiguous()
        nbytes = self._library.vita_decode_attention_f32_workspace(caches.lengths, requests, heads, kv_heads, d)
        out, workspace = torch.empty_like(q), torch.empty(nbytes, dtype=torch.uint8, device=q.device)
        self._library.vita_decode_attention_f32(
            address(q), address(k), address(v), caches.keys, caches.values, caches.lengths, caches.capacities,
            address(out), address(workspace), requests, heads, kv_heads, d, layer, d**-0.5,
            int(dtype == torch.bfloat16),
        )  # fmt: skip
        return out.to(dtype)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last dimension: float32 `[..., n]` and `[n]` to `[..., n]`."""
        out, n = torch.empty_like(x), weight.shape[0]
        self._library.vita_rms_norm_f32(address(x), address(weight), address(out), x.numel() // n, n, eps)
        return out

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor) -> bool:
        """Rotary position embedding of `x`, in place; False, with `x` unchanged, where the kernel does not apply.

        Args:
            x: float32 `[batch, n, heads, d]`.
            cos, sin: float32 `[batch or 1, n, 1, d]`.
        """
        heads, d = x.shape[2:]
        if d % 2 or not (x.is_contiguous() and cos.is_contiguous() and sin.is_contiguous()):
            return False
        rows, angles = x.shape[0] * x.shape[1], cos.shape[0] * cos.shape[1]
        self._library.vita_rope_f32(address(x), address(cos), address(sin), rows, heads, d, angles)
        return True

    def silu_mul(self, gate: Tensor, up: Tensor) -> bool:
        """Always False: PyTorch's two operations are as fast."""
        return False


def float32_kernels(x: Tensor, other: Tensor) -> Float32Kernels | None:
    """The kernels, if both are float32 on a CPU and gradients are off."""
    usable = x.dtype == other.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_grad_enabled()
    return load_float32_kernels() if usable else None


def attention_kernels(q: Tensor, k: Tensor) -> Float32Kernels | None:
    """The kernels, if `Float32Kernels.decode_attention` may take q and k: both on a CPU, and gradients are off."""
    both = q.dtype == k.dtype and q.dtype in (torch.float32, torch.bfloat16) and q.device.type == "cpu"
    return load_float32_kernels() if both and not torch.is_grad_enabled() else None


@lru_cache(maxsize=1)
def load_float32_kernels() -> Float32Kernels | None:
    """The kernels, compiled if this machine has not yet; None, logged, where that fails. Once per process."""
    kernels, found = open_library(load_library(FLOAT32_PROGRAM), Float32Kernels)
    log.info("float32 kernels: %s", found.reason)
    return kernels
