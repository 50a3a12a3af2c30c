"""The stored weight of a linear layer, in any format, as the kernels take it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Weight:
    """A weight as it is stored.

    Attributes:
        values: `[out, in]`, floats or int8; int4 as uint8 `[out, in / 2]`.
        scale: of quantised values: int8 `[out]`, int4 `[out, in / 64]`; None for floats.
        bias: `[out]`, or None.
    """

    values: Tensor
    scale: Tensor | None
    bias: Tensor | None
