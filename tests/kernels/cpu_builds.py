"""Builds of the CPU kernels for several instruction sets, with a check that no kernel writes past its workspace."""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from tests.kernels.compilers import find_compiler
from torch import Tensor

from vita.kernels.cpu.bindings import PROGRAM, Kernels
from vita.kernels.cpu.compile import ONE_THREAD, OPENMP, compile_program, file_stem, identity

X86 = platform.machine() in ("x86_64", "AMD64")
GUARD = 1 << 18  # bytes before and after a workspace that must not change
CANARY = 0xA5


@dataclass(frozen=True)
class Build:
    """Flags of one branch of the C sources, the CPU flags that it needs to run, and that of threads."""

    flags: tuple[str, ...]
    needs: frozenset[str] = field(default_factory=frozenset)
    threads: str = OPENMP

    def runs_here(self) -> bool:
        return not self.needs or (X86 and self.needs <= cpu_flags())


AVX2 = frozenset({"avx2", "fma"})
VNNI = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "avx512_vnni"}
BF16 = VNNI | {"avx512_bf16"}
BUILDS = {
    "native": Build(("-march=native",)),
    "AVX-512 BF16": Build(("-march=cooperlake",), BF16),
    "AVX-512 VNNI": Build(("-march=cascadelake",), VNNI),
    "AVX-VNNI": Build(("-mavx2", "-mfma", "-mavxvnni"), AVX2 | {"avx_vnni"}),
    "AVX2": Build(("-mavx2", "-mfma"), AVX2),
    "plain C": Build(()),
    "one thread": Build(("-march=native",), threads=ONE_THREAD),
    # Other block sizes than the default: another size of the workspaces.
    "other blocks": Build(("-march=cooperlake", "-DM_BLOCK=4", "-DKV_BLOCK=128", "-DL3_BYTES=1024"), BF16),
    "AVX2, other blocks": Build(("-mavx2", "-mfma", "-DM_BLOCK=4", "-DL3_BYTES=1024"), AVX2),
}
INT8_BUILDS = ["AVX-512 BF16", "AVX-512 VNNI", "AVX-VNNI", "other blocks"]  # with a dynamic GEMM of int8 weights
INT4_BUILDS = [*INT8_BUILDS, "AVX2", "AVX2, other blocks"]  # with one of int4 weights
BF16_BUILDS = ["native", "AVX-512 BF16", "other blocks"]  # with the attention kernels

QUICK = ("native", "AVX2", "plain C", "other blocks")  # a build takes seconds; the others are slow tests


def builds(names: Sequence[str]) -> list[object]:
    """Names as parameters of tests."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), []))


def compile_builds(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Compile the named builds side by side; those that this machine cannot run are left out.

    Files of `folder` that were compiled before are used again: a file's name is a hash of the sources, the flags, the
    compiler and the processor.
    """
    compiler = find_compiler()
    if compiler is None:
        return {}
    runnable = [name for name in names if BUILDS[name].runs_here()]

    def build(name: str) -> Path:
        # -O1: half the compile time of -O3; the branches of the sources are the same.
        program = replace(PROGRAM, flags=("-O1", *BUILDS[name].flags, BUILDS[name].threads, "-fPIC", "-shared"))
        file = folder / f"{file_stem(identity(compiler, program))}.so"
        if not file.is_file():
            partial = file.with_suffix(f".{os.getpid()}")
            partial.write_bytes(compile_program(compiler, program))
            partial.replace(file)
        return file

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(runnable, pool.map(build, runnable), strict=True))


class GuardedKernels(Kernels):
    """Kernels whose workspaces hold NaN at first and lie between guard bytes.

    NaN in a result shows that a kernel read what it had not written. `check_guards` finds writes outside a workspace.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(ctypes.CDLL(str(file)))
        self._buffers: list[Tensor] = []

    def workspace(self, nbytes: int) -> Tensor:
        buffer = torch.full((nbytes + 2 * GUARD,), CANARY, dtype=torch.uint8)
        buffer[GUARD : GUARD + nbytes] = 0xFF  # NaN as float32 and as bfloat16
        self._buffers.append(buffer)
        return buffer[GUARD : GUARD + nbytes]

    def check_guards(self) -> None:
        """Fail if a kernel wrote before or after a workspace since the last check."""
        buffers, self._buffers = self._buffers, []
        for buffer in buffers:
            guards = torch.cat([buffer[:GUARD], buffer[-GUARD:]])
            assert bool((guards == CANARY).all()), f"a kernel wrote outside its {len(buffer) - 2 * GUARD} bytes"


def cases(quick: Sequence[tuple[object, ...]], *axes: Sequence[object]) -> list[object]:
    """The quick cases, and the rest of the cross product of `axes` marked `slow`."""
    rest = [case for case in itertools.product(*axes) if case not in quick]
    return [*quick, *(pytest.param(*case, marks=pytest.mark.slow) for case in rest)]
