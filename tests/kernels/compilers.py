"""The C compiler that tests build kernels with."""

from __future__ import annotations

from vita.kernels.cpu.compile import find_compilers


def find_compiler() -> str | None:
    """Path of the first C compiler found, or None."""
    return next(iter(find_compilers()), None)
