"""Kernels for CUDA, in Triton, which comes with PyTorch there.

Importing a module of this folder needs Triton; `available` tells whether it is there. Triton launches on the thread's
current device: a decode step makes the tensors' own the current one for all its launches (`engine.graphs`).
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

LEAST_CAPABILITY = (8, 0)  # Ampere: the first with bfloat16, and with copies that do not pass through registers


@cache
def available(device: torch.device) -> bool:
    """Whether the kernels run on a device: a GPU new enough, and Triton, which PyTorch brings on Linux."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY
