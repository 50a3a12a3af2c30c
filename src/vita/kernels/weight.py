"""What a product needs of a linear layer, whatever the format of its weights.

Does not know how formats are made (`vita.layers`) or multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Weight:
    """A weight as it is stored.

    Attributes:
        values: `[out, in]`, floats or int8; four bits as uint8 `[out, in / 2]`.
        scale: of rounded values: `[out]`, for four bits `[out, in / 64]`; None of others.
        bias: `[out]`, or None.
    """

    values: Tensor
    scale: Tensor | None
    bias: Tensor | None
