"""Giving back the memory of mapped files.

Owns one call to the system. Pages of a mapped file that were read stay counted as this process's until somebody else
wants the memory; dropped, they are read again from the file (or the page cache) when touched.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import lru_cache
from pathlib import Path

from torch import Tensor

DONT_NEED = 4  # MADV_DONTNEED on Linux
MAPS = Path("/proc/self/maps")


def drop_pages(tensor: Tensor, file: Path) -> bool:
    """Give back the whole pages under a tensor that is a view of a mapped file.

    Does nothing where the tensor is not such a view: on other memory the call would wipe it.

    Args:
        tensor: on the CPU.
        file: it is a view of.

    Returns:
        whether pages were given back.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return False
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.nbytes) // page * page
    if end <= start or not _is_mapped(start, end, file):
        return False
    return int(_libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), DONT_NEED)) == 0


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _is_mapped(start: int, end: int, file: Path) -> bool:
    """Whether these addresses lie in one mapping of the file."""
    wanted = str(file.resolve())
    for line in MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == wanted:
            first, last = (int(part, 16) for part in fields[0].split("-"))
            if first <= start and end <= last:
                return True
    return False
