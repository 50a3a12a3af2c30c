"""A C program of one line, to test compiling and loading without waiting for the kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.kernels.compilers import find_compiler

from vita.kernels.cpu.compile import Loaded

COMPILER = find_compiler()
COMPILES = pytest.mark.skipif(COMPILER is None, reason="NO COMPILER: nothing can be compiled here")
TINY = "int answer(void) { return 7; }\n"


def answer(found: Loaded) -> int:
    assert found.library is not None, found.reason
    return int(found.library.answer())


def times(runs: Path) -> int:
    return len(runs.read_text().splitlines())
