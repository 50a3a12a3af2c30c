"""Kernels for CUDA, in Triton, which comes with PyTorch there.

Importing a module of this folder needs Triton; `available` tells whether it is there. Triton launches on the thread's
current device: a decode step makes the tensors' own the current one for all its launches (`engine.cuda_graphs`).
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec

import torch

log = logging.getLogger("vita")
SILU_OF_ONE = 0.7311
MAX_BATCH = 16  # multiplied together: those of a matrix instruction
MIN_CAPABILITY = (8, 0)  # Ampere: the first with bfloat16, and with copies that do not pass through registers


@cache
def available(device: torch.device) -> bool:
    """Whether the kernels run on a device: a GPU new enough, and Triton, which PyTorch brings on Linux."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= MIN_CAPABILITY and _one_runs(device)


def _one_runs(device: torch.device) -> bool:
    """Try a small kernel: Triton needs a C compiler beside the GPU, and lean container images have none."""
    from vita.kernels.triton.elementwise import TritonElementwise

    gate, up = torch.ones(2, 8, device=device)
    try:
        TritonElementwise().silu_mul(gate, up)
        value = float(gate[0])
        if abs(value - SILU_OF_ONE) > 1e-3:
            raise ArithmeticError(f"{value} came out instead of {SILU_OF_ONE}")
    except Exception as error:  # Triton's failures have no common class
        log.warning("Triton's kernels do not run here, so PyTorch's own operations are used: %s", error)
        return False
    return True
