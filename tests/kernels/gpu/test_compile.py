"""Every Triton kernel compiles for its GPU without spilling registers; no GPU is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
AMPERE, ADA, HOPPER, BLACKWELL = 80, 89, 90, 100
KERNELS = {"bf16": 45, "fp32": 34}
MIN_SHARED = 99 << 10  # bytes of shared memory a program may use on the smallest supported GPUs


def resources(target: int, dtype: str, cache: Path) -> list[tuple[str, int, int]]:
    """Name, bytes of stack and bytes of shared memory of every kernel."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.gpu.compile_all", str(target), dtype]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.findall(r"^(.+): \d+ registers, (\d+) bytes of stack, (\d+) shared$", done.stdout, re.MULTILINE)
    assert len(found) == KERNELS[dtype]
    return [(name, int(stack), int(shared)) for name, stack, shared in found]


@pytest.mark.slow
def test_the_kernels_compile_and_do_not_spill(tmp_path: Path) -> None:
    kernels = resources(HOPPER, "bf16", tmp_path)
    assert [kernel for kernel in kernels if kernel[1]] == []


@pytest.mark.slow
def test_the_kernels_fit_smaller_gpus_in_float32(tmp_path: Path) -> None:
    kernels = resources(ADA, "fp32", tmp_path)
    assert [kernel for kernel in kernels if kernel[2] > MIN_SHARED] == []


@pytest.mark.slow
@pytest.mark.parametrize("target", [AMPERE, ADA, BLACKWELL])
def test_the_kernels_compile_for_older_and_newer_gpus(target: int, tmp_path: Path) -> None:
    kernels = resources(target, "bf16", tmp_path)
    assert [kernel for kernel in kernels if kernel[1]] == []
