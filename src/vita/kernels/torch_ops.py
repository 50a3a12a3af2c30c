"""Calls of PyTorch's private operators, each with a check that this build has it.

Private operators can change or be absent in another release or build (without oneDNN, for example). A method returns
None then, and the caller uses public operations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

Operator: TypeAlias = Callable[..., Tensor]


class TorchOps:
    """The private operators of one PyTorch build, looked up once.

    Args:
        ops: PyTorch's operators.
        functions: PyTorch's top-level functions.
    """

    def __init__(self, ops: object = torch.ops, functions: object = torch) -> None:
        mkldnn, aten = getattr(ops, "mkldnn", None), getattr(ops, "aten", None)
        self._linear_pointwise: Operator | None = getattr(mkldnn, "_linear_pointwise", None)
        self._flash_attention: Callable[..., tuple[Tensor, ...]] | None = getattr(
            aten, "_scaled_dot_product_flash_attention", None
        )
        self._int8pack_mm: Operator | None = getattr(functions, "_weight_int8pack_mm", None)

    def linear_activation(self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor | None:
        """`activation(x · wᵀ + b)` on a CPU in one oneDNN kernel, the activation applied to the unrounded sums.

        Args:
            x: bfloat16 `[rows, in]`.
            weight: bfloat16 `[out, in]`.
            bias: bfloat16 `[out]`, or None.
            activation: "gelu" (exact) or "relu".

        Returns:
            bfloat16 `[rows, out]`, or None without the operator.
        """
        if self._linear_pointwise is None:
            return None
        approximate = "none" if activation == "gelu" else ""
        return self._linear_pointwise(x, weight, bias, activation, [], approximate)

    def causal_flash_attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor | None:
        """FlashAttention on CUDA whose causal mask is aligned to the lower right: the queries are the last of the keys.

        Args:
            q: half precision `[batch, heads, queries, d]`.
            k, v: `[batch, heads, keys, d]`.
            scale: factor on the scores; None for `d ** -0.5`.

        Returns:
            `[batch, heads, queries, d]`, or None without the operator.
        """
        if self._flash_attention is None:
            return None
        return self._flash_attention(q, k, v, 0.0, True, False, scale=scale)[0]

    def int8_linear(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor | None:
        """`x · (w · scale)ᵀ` on a CPU without dequantising the weights.

        Args:
            x: `[rows, in]`.
            weight: int8 `[out, in]`.
            scale: `[out]` in the dtype of x.

        Returns:
            `[rows, out]` in the dtype of x, or None without the operator.
        """
        return None if self._int8pack_mm is None else self._int8pack_mm(x, weight, scale)


@lru_cache(maxsize=1)
def torch_ops() -> TorchOps:
    """The operators of this process's PyTorch."""
    return TorchOps()
