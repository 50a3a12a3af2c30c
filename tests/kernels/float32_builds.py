"""Builds of the float32 kernels for other processors than this one."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kernels.compilers import find_compiler

from vita.kernels.cpu.compile import ONE_THREAD, OPENMP, Program, compile_program
from vita.kernels.cpu.float32 import FLOAT32_PROGRAM, Float32Kernels

OTHER_FLAGS = [
    ("-march=x86-64-v3",),
    ("-march=x86-64",),
    ("-fsanitize=undefined", "-fno-sanitize-recover"),
    (ONE_THREAD,),
]


def float32_build(folder: Path, flags: tuple[str, ...]) -> Float32Kernels:
    """The float32 kernels, as by `build`."""
    return Float32Kernels(build(FLOAT32_PROGRAM, folder, flags))


def build(program: Program, folder: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    """A program, compiled into a folder; skips the test if the compiler does not know the flags."""
    compiler = find_compiler()
    assert compiler is not None
    if subprocess.run([compiler, *flags, "-E", "-x", "c", "/dev/null"], capture_output=True).returncode:
        pytest.skip(f"the compiler has no {flags[0]}")
    threads = () if ONE_THREAD in flags else (OPENMP,)
    program = replace(program, flags=("-O2", *flags, *threads, "-fPIC", "-shared", "-Wall", "-Werror"))
    library = folder / "kernels.so"
    library.write_bytes(compile_program(compiler, program))
    return ctypes.CDLL(str(library))
