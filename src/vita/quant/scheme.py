"""Which layers are stored in few bits, by scheme.

Owns the choice: `int8` and `int4` round the decoder alone, since rounded encoders are what users report to break;
`+encoders` puts those in eight bits too, for whoever wants the memory more. The formats, products and roundings are
`quant.int8`'s and `quant.int4`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vita.kernels.cpu.bindings import GROUP_SIZE
from vita.options import Quantize
from vita.quant.int4 import Int4Linear, quantize_groups
from vita.quant.int8 import Int8Linear, quantize_rows

STORED = (torch.int8, torch.uint8)  # dtypes of rounded weights
ENCODERS = "+encoders"
HEAD = "head"  # every answer's every token depends on it, and it is small beside the rest: never in four bits


def scheme_of(part: str, scheme: Quantize | None) -> Quantize | None:
    """How a part's linear layers are held under a scheme for the whole model."""
    if part == "decoder" or scheme is None:
        return scheme
    return "int8" if scheme.endswith(ENCODERS) else None


def quantize_modules(module: nn.Module, scheme: Quantize) -> list[str]:
    """Replace every linear layer inside by one of the scheme and its size; returns their paths.

    Meant for modules on the meta device, before their weights are filled in. With `int4`, the head and layers whose
    width is no multiple of 64 are in eight bits.
    """
    paths = [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    for path in paths:
        layer = module.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        parent, _, name = path.rpartition(".")
        fits = scheme.startswith("int4") and name != HEAD and layer.in_features % GROUP_SIZE == 0
        with torch.device(layer.weight.device):
            made = (Int4Linear if fits else Int8Linear)(layer.in_features, layer.out_features, layer.bias is not None)
        setattr(module.get_submodule(parent), name, made)
    return paths


def quantize_weight(weight: Tensor, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """A weight rounded to the format whose values are of this dtype, and its scales."""
    return quantize_rows(weight) if stored == torch.int8 else quantize_groups(weight)
