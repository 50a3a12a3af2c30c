"""Large blocks that were freed are had again without asking the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Blocks are asked for as C does it: PyTorch asks for aligned ones, a little larger than the gap the last one left, and
# how often that gap has grown by then is chance.
PAGES = """
import ctypes, resource, sys
from vita.runtime.process import tune_malloc
assert sys.argv[1] == "leave" or tune_malloc()
c, size = ctypes.CDLL(None), ctypes.c_size_t(64 << 20)
c.malloc.restype = ctypes.c_void_p

def touch():
    block = ctypes.c_void_p(c.malloc(size))
    c.memset(block, 1, size)
    c.free(block)

touch()  # the first one is always new
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="SKIPPED LOUDLY: only glibc has the setting")
def test_freed_blocks_are_had_again() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 0.1 * faults("leave")
