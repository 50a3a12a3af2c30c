"""Triton's interpreter runs the GPU's kernels on the CPU, value by value: their arithmetic is tested everywhere."""

from __future__ import annotations

import os

import pytest
import torch

if torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ:
    # The variable holds for the whole process, and the tests of a real GPU must not be interpreted.
    pytest.skip(
        "SKIPPED LOUDLY: with a GPU run TRITON_INTERPRET=1 pytest tests/kernels/gpu apart", allow_module_level=True
    )
# Read by Triton when a kernel is defined, that is when one of our modules is first imported.
os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="SKIPPED LOUDLY: Triton is not installed, the GPU's kernels are not tested")
