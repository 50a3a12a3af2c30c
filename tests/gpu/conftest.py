"""Triton's interpreter runs the GPU's kernels on the CPU, value by value: their arithmetic is tested everywhere."""

from __future__ import annotations

import os

import pytest

# Read by Triton when a kernel is defined, that is when one of our modules is first imported.
os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="SKIPPED LOUDLY: Triton is not installed, the GPU's kernels are not tested")
