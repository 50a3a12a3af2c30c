"""SwiGLU of an MLP: `silu(gate) * up` (spec section 8).

Outside training the result overwrites `gate`: at prefill a new tensor would be `[positions, intermediate_size]`, and
allocating it costs more than the arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vita.kernels.dispatch import elementwise_kernels


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`, both `[..., n]`; overwrites `gate` unless gradients are enabled."""
    if torch.is_grad_enabled():
        return functional.silu(gate) * up
    native = elementwise_kernels(gate, up)
    if native is not None and native.silu_mul(gate, up):
        return gate
    return functional.silu(gate, inplace=True).mul_(up)
