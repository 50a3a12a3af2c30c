"""Where a compiler fails, another one is tried, and then each without OpenMP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kernels.tiny import COMPILER, COMPILES, answer, times

from vita.kernels.cpu import compile
from vita.kernels.cpu.compile import Program, find_compilers, load_library

pytestmark = COMPILES
BROKEN = "echo tiny.c:1: error: no such thing >&2\nexit 1"
NO_OPENMP = f"""for flag in "$@"; do
  if [ "$flag" = -fopenmp ]; then echo "clang: error: unsupported option '-fopenmp'" >&2; exit 1; fi
done
exec {COMPILER} "$@\""""  # as Apple's clang does


def test_a_compiler_that_fails_is_passed_over(program: Program, folder: Path, compiler: Callable[..., Path]) -> None:
    failed, worked = compiler(BROKEN, "cc"), compiler(f'exec {COMPILER} "$@"', "gcc", "clang")
    first, second = load_library(program), load_library(program)
    assert answer(first) == 7 and answer(second) == 7 and not second.fix
    assert "bin/gcc" in first.reason and "compiled before" in second.reason
    assert times(failed) == times(worked) == 1, "the failure is remembered, the library kept"


@pytest.mark.parametrize("usable", [True, False])
def test_a_compiler_without_openmp_builds_for_one_thread(
    usable: bool, program: Program, folder: Path, compiler: Callable[..., Path]
) -> None:
    if not usable:  # then it is compiled for this process only
        folder.write_text("a file")
    runs = compiler(NO_OPENMP, version="Apple clang version 17.0.0")
    found = load_library(replace(program, flags=compile.FLAGS))
    assert answer(found) == 7 and times(runs) == 2
    assert "without OpenMP, so that they use one thread" in found.reason and "libomp for clang" in found.fix
    assert ("set VITA_KERNELS" in found.fix) is not usable
    assert answer(load_library(replace(program, flags=compile.FLAGS))) == 7
    assert times(runs) == (2 if usable else 4)


def test_another_compiler_with_openmp_comes_before_one_without(
    program: Program, folder: Path, compiler: Callable[..., Path]
) -> None:
    compiler(NO_OPENMP, "cc", version="Apple clang version 17.0.0")
    compiler(f'exec {COMPILER} "$@"', "gcc", "clang")
    found = load_library(replace(program, flags=compile.FLAGS))
    assert answer(found) == 7 and "OpenMP" not in found.reason and not found.fix


@pytest.mark.parametrize(("version", "named"), [("Debian clang version 14.0.6", True), ("cc (Debian) 12", False)])
def test_where_nothing_works_libomp_is_named_for_clang(
    version: str, named: bool, program: Program, folder: Path, compiler: Callable[..., Path]
) -> None:
    runs = compiler(BROKEN, version=version)
    found = load_library(replace(program, flags=compile.FLAGS))
    assert found.library is None and "no such thing" in found.reason and times(runs) == 2
    assert ("libomp" in found.fix) is named and "vita doctor" in found.fix


def test_names_of_one_compiler_are_one(compiler: Callable[..., Path], tmp_path: Path) -> None:
    compiler("exit 1", "cc", "clang")
    compiler("exit 1", "gcc")
    assert find_compilers() == [str(tmp_path / "bin" / name) for name in ("cc", "gcc")]
