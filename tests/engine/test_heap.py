"""Large blocks that were freed are had again without asking the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES = """
import resource, sys, torch
from vita.engine.heap import keep_freed_blocks
assert sys.argv[1] == "leave" or keep_freed_blocks()
torch.ones(16 << 20), torch.ones(16 << 20)  # the first ones are always new
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="SKIPPED LOUDLY: only glibc has the setting")
def test_freed_blocks_are_had_again() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 0.1 * faults("leave")
