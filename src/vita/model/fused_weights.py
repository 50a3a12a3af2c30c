"""Weights of layers that see the same input, joined into one: their product is one kernel instead of several.

Owns the joining, which keeps the layers usable: each goes on with its part of the joined memory. Does not know which
layers those are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vita.kernels.weight import Weight
from vita.quant.linear import QuantizedLinear


def weight_view(layer: nn.Module) -> Weight:
    """The weight of one linear layer."""
    if isinstance(layer, QuantizedLinear):
        return Weight(layer.weight, layer.scale, layer.bias)
    assert isinstance(layer, nn.Linear)
    return Weight(layer.weight, None, layer.bias)


@torch.no_grad()
def join(layers: Sequence[nn.Module]) -> Weight:
    """One weight of all, in their order; the layers' own become views of it, so nothing is held twice.

    Args:
        layers: linear ones of one kind and width, all with a bias or all without.
    """
    weights = [weight_view(layer) for layer in layers]
    values = torch.cat([w.values for w in weights])
    scale = torch.cat([w.scale for w in weights if w.scale is not None]) if weights[0].scale is not None else None
    bias = torch.cat([w.bias for w in weights if w.bias is not None]) if weights[0].bias is not None else None
    start = 0
    for layer, weight in zip(layers, weights, strict=True):
        part = slice(start, start + len(weight.values))
        for name, joined in (("weight", values), ("scale", scale), ("bias", bias)):
            if joined is not None:
                getattr(layer, name).data = joined[part]
        start = part.stop
    return Weight(values, scale, bias)
