"""Dropping pages of memory-mapped files (`madvise(MADV_DONTNEED)`).

Pages of a mapped file that were read stay in the process's resident set until the system needs the memory. Dropped
pages are read again from the file, or from the page cache, at the next access.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

DONT_NEED = 4  # MADV_DONTNEED on Linux
MAPS = Path("/proc/self/maps")


@dataclass(frozen=True)
class Pages:
    """Pages of mapped files, as page-aligned (start, end) addresses."""

    spans: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        """The most bytes that dropping them frees."""
        return sum(end - start for start, end in self.spans)

    def drop(self) -> bool:
        """Drop the pages; returns whether the system did so for all of them."""
        done = [_libc().madvise(ctypes.c_void_p(a), ctypes.c_size_t(b - a), DONT_NEED) == 0 for a, b in self.spans]
        return bool(done) and all(done)


def pages_under(tensors: Iterable[Tensor], files: Iterable[Path]) -> Pages:
    """Pages of the tensors that are views of mapped files.

    Tensors in other memory are left out: dropping their pages would zero them.

    Args:
        tensors: on any device.
        files: the files that may be mapped.
    """
    if sys.platform != "linux":
        return Pages(())
    mappings, spans = _mappings({str(file.resolve()) for file in files}), []
    for tensor in tensors:
        if tensor.device.type != "cpu":
            continue
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start and any(first <= start and end <= last for first, last in mappings):
            spans.append((start, end))
    return Pages(tuple(sorted(spans)))


def drop_pages(tensor: Tensor, file: Path) -> bool:
    """Drop the pages of a tensor that is a view of a mapped file; returns whether there were any."""
    return pages_under([tensor], [file]).drop()


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mappings(wanted: set[str]) -> list[tuple[int, int]]:
    """First and last address of every mapping of these files."""
    found = []
    for line in MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in wanted:
            first, last = (int(part, 16) for part in fields[0].split("-"))
            found.append((first, last))
    return found
