"""The gate of a SwiGLU MLP (spec section 8).

Owns `silu(gate) · up` without room for what is between: at prefill that is as large as the MLP is wide, and asking the
system for it costs more than the arithmetic. Does not know about the layers before and after.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vita.kernels.dispatch import elementwise_kernels


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) · up`, `[..., n]`; outside training the room of `gate` is used for it."""
    if torch.is_grad_enabled():
        return functional.silu(gate) * up
    own = elementwise_kernels(gate, up)
    if own is not None and own.silu_mul(gate, up):
        return gate
    return functional.silu(gate, inplace=True).mul_(up)
