"""Choose the native elementwise kernels for a device.

CPUs have them in `kernels.cpu.bindings`, CUDA in `kernels.triton.elementwise`. Without them, callers use PyTorch
operations.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from vita.kernels import triton as triton_kernels
from vita.kernels.cpu.bindings import bf16_kernels
from vita.kernels.cpu.float32 import float32_kernels


class ElementwiseKernels(Protocol):
    """The kernels that both devices have; shapes and dtypes as in `kernels.cpu.bindings.Kernels`."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last dimension."""

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor) -> bool:
        """Rotate `x` in place by its positions; False, and `x` unchanged, if unsupported."""

    def silu_mul(self, gate: Tensor, up: Tensor) -> bool:
        """`silu(gate) * up` into `gate`; False, and `gate` unchanged, if unsupported."""


def elementwise_kernels(x: Tensor, other: Tensor) -> ElementwiseKernels | None:
    """The kernels for `x` and its second operand; None if there are none or gradients are enabled."""
    if x.device.type != "cuda":
        return float32_kernels(x, other) or bf16_kernels(x, other)
    supported = x.dtype == other.dtype and not torch.is_grad_enabled()
    return triton_elementwise() if supported and triton_kernels.available(x.device) else None


@lru_cache(maxsize=1)
def triton_elementwise() -> ElementwiseKernels:
    """The CUDA kernels; imports Triton."""
    from vita.kernels.triton.elementwise import TritonElementwise

    return TritonElementwise()
