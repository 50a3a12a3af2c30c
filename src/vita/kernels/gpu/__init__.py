"""Kernels for CUDA, in Triton, which comes with PyTorch there.

Importing a module of this folder needs Triton; `available` tells whether it is there.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether Triton is installed; PyTorch brings it on Linux, not on Windows."""
    return find_spec("triton") is not None
