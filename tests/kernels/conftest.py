"""Fixtures of the tests that compile and load C programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kernels.tiny import TINY

from vita.kernels.cpu import compile
from vita.kernels.cpu.compile import Program


@pytest.fixture
def program(tmp_path: Path) -> Program:
    file = tmp_path / "tiny.c"
    file.write_text(TINY)
    return Program((file,), flags=("-shared", "-fPIC"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `VITA_KERNELS` names; it does not exist yet."""
    monkeypatch.setenv("VITA_KERNELS", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install a script in front of the compiler, under each of its names or the one given, that logs each run; returns
    the log file. `is_clang` asks it for its version, which is not logged."""

    def install(script: str, *names: str, version: str = "cc (Debian) 12") -> Path:
        place = tmp_path / "bin"
        first, *others = names or compile.COMPILERS
        runs = tmp_path / f"runs of {first}"
        place.mkdir(exist_ok=True)
        runs.touch()
        asked = f'[ "$1" = --version ] && echo "{version}" && exit'
        (place / first).write_text(f'#!/bin/sh\n{asked}\necho run >>"{runs}"\n{script}\n')
        (place / first).chmod(0o755)
        for other in others:
            (place / other).unlink(missing_ok=True)
            (place / other).symlink_to(first)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        return runs

    return install
