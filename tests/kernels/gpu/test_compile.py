"""Every kernel compiles for the GPU it is meant for; no GPU is needed for that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HOPPER, ADA = 90, 89
KERNELS = 26
LEAST_SHARED = 99 << 10  # bytes a program may have on the GPUs that have least


def resources(target: int, form: str, cache: Path) -> list[tuple[str, int, int]]:
    """Name, bytes of stack and bytes of shared memory of every kernel."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.gpu.compile_all", str(target), form]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.findall(r"^(.+): \d+ registers, (\d+) bytes of stack, (\d+) shared$", done.stdout, re.MULTILINE)
    assert len(found) == KERNELS
    return [(name, int(stack), int(shared)) for name, stack, shared in found]


def test_the_kernels_compile_and_do_not_spill(tmp_path: Path) -> None:
    made = resources(HOPPER, "bf16", tmp_path)
    assert [kernel for kernel in made if kernel[1]] == []


def test_the_kernels_fit_smaller_gpus_in_the_widest_format(tmp_path: Path) -> None:
    made = resources(ADA, "fp32", tmp_path)
    assert [kernel for kernel in made if kernel[2] > LEAST_SHARED] == []
