"""With malloc tuning, large freed blocks are reused without new page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from vita.runtime.process import OLD_LIMIT, RETAINED_BYTES, set_thresholds

TRIM, MMAP = -1, -3  # as malloc.h numbers them

# Plain malloc, not PyTorch: PyTorch allocates aligned blocks, a little larger than the gap that the last one left, so
# the number of page faults would vary from run to run.
PROGRAM = """
import ctypes, resource, sys
from vita.runtime.process import tune_malloc
assert sys.argv[1] == "leave" or tune_malloc()
c, size = ctypes.CDLL(None), ctypes.c_size_t(64 << 20)
c.malloc.restype = ctypes.c_void_p

def touch():
    block = ctypes.c_void_p(c.malloc(size))
    c.memset(block, 1, size)
    c.free(block)

touch()  # the first block is always new memory
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="SKIPPED LOUDLY: only glibc has mallopt")
def test_freed_blocks_are_reused() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 0.1 * faults("leave")


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        (RETAINED_BYTES, [(MMAP, RETAINED_BYTES), (TRIM, RETAINED_BYTES)]),
        (OLD_LIMIT, [(MMAP, OLD_LIMIT), (TRIM, RETAINED_BYTES)]),  # glibc before 2.35
        (0, []),
    ],
)
def test_trimming_is_set_only_beside_the_size_of_mapped_blocks(limit: int, wanted: list[tuple[int, int]]) -> None:
    """Setting it alone would have every block of more than 128 KiB mapped anew."""
    done: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        if parameter == MMAP and value > limit:
            return 0
        done.append((parameter, value))
        return 1

    assert set_thresholds(mallopt) is bool(wanted)
    assert done == wanted
