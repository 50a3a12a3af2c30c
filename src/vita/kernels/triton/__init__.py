"""CUDA kernels in Triton.

The modules of this folder import Triton, which PyTorch installs on Linux; check `available` first. Triton launches on
the thread's current device, so a decode step sets it once for all its launches (`engine.cuda_graphs`).
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec

import torch

log = logging.getLogger("vita")
SILU_OF_ONE = 0.7311
MAX_BATCH = 16  # rows of a decode step: the smallest size of a tensor-core matmul
MIN_CAPABILITY = (8, 0)  # Ampere: the first with bfloat16 and asynchronous copies to shared memory


@cache
def available(device: torch.device) -> bool:
    """Whether the kernels run on a device: CUDA, Ampere or newer, with Triton and a C compiler."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= MIN_CAPABILITY and _test_kernel(device)


def _test_kernel(device: torch.device) -> bool:
    """Run a small kernel: Triton needs a C compiler at run time, which small container images lack."""
    from vita.kernels.triton.elementwise import TritonElementwise

    gate, up = torch.ones(2, 8, device=device)
    try:
        TritonElementwise().silu_mul(gate, up)
        value = float(gate[0])
        if abs(value - SILU_OF_ONE) > 1e-3:
            raise ArithmeticError(f"silu(1) is {value} instead of {SILU_OF_ONE}")
    except Exception as error:  # Triton's errors have no common base class
        log.warning("Triton kernels do not run on this machine, so PyTorch operations are used: %s", error)
        return False
    return True
