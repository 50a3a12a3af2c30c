"""Process settings that save time: malloc tuning and a pause of the garbage collector.

glibc returns freed blocks of more than a few megabytes to the system at once. Each layer of a prefill allocates such
blocks again, and the system zeroes every page again: a tenth of the prefill's time (docs/log.md).
"""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
RETAINED_BYTES = 1 << 30  # freed memory that the process keeps
OLD_LIMIT = 32 << 20  # the highest mmap threshold of glibc before 2.35


def tune_malloc() -> bool:
    """Let this process keep up to 1 GiB of freed memory for reuse; False without glibc.

    Fragmentation raises peak memory a little: from 4.63 GB to between 4.73 and 4.85 GB for the released model in int4.
    """
    return platform.libc_ver()[0] == "glibc" and set_thresholds(ctypes.CDLL(None).mallopt)


def set_thresholds(mallopt: Callable[[int, int], int]) -> bool:
    """Set the size from which blocks are mapped, then the size of freed memory that is kept; False if refused.

    In this order: either one switches off glibc's own adaptation of the first, and without it every block of more than
    128 KiB would be mapped anew.
    """
    mapped = any(mallopt(_MMAP_THRESHOLD, size) for size in (RETAINED_BYTES, OLD_LIMIT))
    return mapped and bool(mallopt(_TRIM_THRESHOLD, RETAINED_BYTES))


@contextmanager
def gc_paused() -> Iterator[None]:
    """Disable the garbage collector inside, and restore its state afterwards."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
