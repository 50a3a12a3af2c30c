"""Writing safetensors files whose tensors begin on cache lines.

Owns the order and the padding. The format's own writer aligns to eight bytes only, and a product that reads its weights
across cache lines takes a fifth longer (docs/benchmarks.md). Does not know what a tensor is for.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vita.weights.store import DTYPES

LINE = 64
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def header(entries: Iterable[tuple[str, torch.dtype, Sequence[int]]]) -> bytes:
    """The beginning of a file that holds these tensors in this order, padded so that they begin on a cache line."""
    listed: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape in entries:
        end = at + dtype.itemsize * math.prod(shape)
        listed[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(listed).encode()
    raw += b" " * (-(8 + len(raw)) % LINE)
    return struct.pack("<Q", len(raw)) + raw


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """One safetensors file; every tensor whose size and those before it are whole cache lines begins on one.

    Args:
        file: written anew.
        tensors: on the CPU, of any dtype of the format.

    Raises:
        OSError: the disk is full or the file cannot be written.
    """
    # Whole lines first: what follows a tensor of an odd size would begin anywhere.
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % LINE != 0, -tensors[name].element_size()))
    with file.open("wb") as out:
        out.write(header((name, tensors[name].dtype, tensors[name].shape) for name in order))
        for name in order:
            out.write(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
