"""Run the Triton kernels in Triton's interpreter, on the CPU, so that their arithmetic is tested without a GPU."""

from __future__ import annotations

import os

import pytest
import torch

if torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ:
    # The variable applies to the whole process, and tests on a real GPU must not run in the interpreter.
    pytest.skip(
        "SKIPPED LOUDLY: with a GPU run TRITON_INTERPRET=1 pytest tests/kernels/gpu apart", allow_module_level=True
    )
# Triton reads it when a kernel is defined, which is when its module is first imported.
os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="SKIPPED LOUDLY: Triton is not installed, the Triton kernels are not tested")
