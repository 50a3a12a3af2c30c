"""Which of our kernels stand between the products, by device.

`kernels.cpu.bindings` has them for CPUs, `kernels.triton.elementwise` for CUDA. Callers compute what neither has with
PyTorch's own operations.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from vita.kernels import triton as triton_kernels
from vita.kernels.cpu.bindings import bf16_kernels


class ElementwiseKernels(Protocol):
    """What both have; `kernels.cpu.bindings.Kernels` says what goes in and out."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last dimension."""

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor) -> bool:
        """Rotary positions, in place; False where it cannot."""

    def silu_mul(self, gate: Tensor, up: Tensor) -> bool:
        """The gate of an MLP, into `gate`; False where it cannot."""


def elementwise_kernels(x: Tensor, other: Tensor) -> ElementwiseKernels | None:
    """The kernels for x and what it meets, if nothing is to be differentiated and there are some."""
    if x.device.type != "cuda":
        return bf16_kernels(x, other)
    alike = x.dtype == other.dtype and not torch.is_grad_enabled()
    return triton_elementwise() if alike and triton_kernels.available(x.device) else None


@lru_cache(maxsize=1)
def triton_elementwise() -> ElementwiseKernels:
    """Those for CUDA; needs Triton."""
    from vita.kernels.triton.elementwise import TritonElementwise

    return TritonElementwise()
