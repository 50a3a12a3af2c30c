"""Run the Triton kernels in Triton's interpreter, on the CPU, so that their arithmetic is tested without a GPU."""

from __future__ import annotations

import os
from pathlib import Path

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

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before the tests that are marked slow are skipped
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The interpreter is slow: of each test the first case is run, all of them with --slow."""
    seen = set[tuple[Path, str]]()
    for item in items:
        if HERE in item.path.parents and isinstance(item, pytest.Function):
            name = (item.path, item.originalname)
            if name in seen:
                item.add_marker(pytest.mark.slow)
            seen.add(name)
