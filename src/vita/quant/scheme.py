"""Quantisation schemes: which layers are stored in int8 or int4.

`int8` and `int4` quantise the decoder alone, since quantised encoders lose accuracy that users notice. `+encoders`
quantises those to int8 as well, for less memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vita.kernels.cpu.bindings import GROUP_SIZE
from vita.options import Quantize
from vita.quant.int4 import Int4Linear, quantize_groups
from vita.quant.int8 import Int8Linear, quantize_rows

STORED = (torch.int8, torch.uint8)  # dtypes of stored quantised weights
ENCODERS = "+encoders"
HEAD = "head"  # never in int4: every token depends on it, and it is a small part of the memory


def scheme_of(part: str, scheme: Quantize | None) -> Quantize | None:
    """The scheme of one part, such as `decoder` or `vision`, under a scheme for the model."""
    if part == "decoder" or scheme is None:
        return scheme
    return "int8" if scheme.endswith(ENCODERS) else None


def is_four_bit(path: str, in_features: int, scheme: Quantize) -> bool:
    """Whether a scheme holds the linear layer at this path in four bits, not in eight."""
    return scheme.startswith("int4") and path.rpartition(".")[2] != HEAD and in_features % GROUP_SIZE == 0


def quantize_modules(module: nn.Module, scheme: Quantize) -> list[str]:
    """Replace every linear layer inside `module` by a quantised one of its size; returns their paths.

    For modules on the meta device, before weights are assigned. With `int4`, the head and layers whose `in_features`
    is not a multiple of 64 are int8.
    """
    paths = [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    for path in paths:
        layer = module.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        parent, _, name = path.rpartition(".")
        four = is_four_bit(path, layer.in_features, scheme)
        with torch.device(layer.weight.device):
            made = (Int4Linear if four else Int8Linear)(layer.in_features, layer.out_features, layer.bias is not None)
        setattr(module.get_submodule(parent), name, made)
    return paths


def quantize_weight(weight: Tensor, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantise a weight to the format stored in this dtype (int8, or uint8 for int4): its values and scales."""
    return quantize_rows(weight) if stored == torch.int8 else quantize_groups(weight)
