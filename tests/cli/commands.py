"""Run `vita` and `video_audio_demo.py` inside the test process, or in one of their own."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.forks import Forks

from vita.cli import run as run_command
from vita.cli.demo import flag_names, run_demo
from vita.cli.guard import run_guarded

ROOT = Path(__file__).parents[2]
MINI = str(ROOT / "tests" / "goldens" / "mini" / "mini_ckpt")
ENV = {k: v for k, v in os.environ.items() if k not in ("VITA_DEBUG", "HF_HUB_OFFLINE")} | {"HF_HUB_OFFLINE": "1"}
COMMANDS = (
    "ask", "say", "chat", "batch", "serve", "info", "pull", "list", "rm", "verify", "bench", "eval", "convert",
    "doctor",
)  # fmt: skip


@dataclass
class Ended:
    """How a command ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


def inside(command: Callable[[], object], stdin: bytes | None) -> Ended:
    """A command inside this process, so that a hundred of them take seconds; its streams are no terminals."""
    out, error = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    kept = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin or b""), "utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            command()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    finally:
        sys.stdin = kept
    out.flush()
    error.flush()
    return Ended(code, out.buffer.getvalue(), error.buffer.getvalue())  # type: ignore[attr-defined]


def run(*arguments: str, stdin: bytes | None = None) -> Ended:
    """`vita` with these arguments."""
    kept, sys.argv = sys.argv, ["vita", *arguments]
    try:
        return inside(run_command, stdin)
    finally:
        sys.argv = kept


def demo(*arguments: str) -> Ended:
    """`video_audio_demo.py` with these arguments."""
    return inside(lambda: run_guarded(lambda: run_demo(list(arguments)), flag_names), None)


def process(forks: Forks, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """`vita` in a process of its own."""
    return forks.run([sys.executable, "-m", "vita", *arguments], capture_output=True, env=ENV, timeout=120)


def assert_sentence(done: Ended, *said: str, code: int = 2) -> None:
    """One clear sentence on stderr, nothing on stdout, the exit code for something a user can mend."""
    error = done.stderr.decode()
    assert done.returncode == code, error
    assert done.stdout == b"", done.stdout
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("vita: ") and lines[0].endswith((".", "help'.")), error
    assert "Traceback" not in error
    for words in said:
        assert words in error, error


def reader_at(pipe: Path) -> int:
    """The writing end of a named pipe, once somebody reads it."""
    for _ in range(600):
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO
            time.sleep(0.1)
    pytest.fail("nobody read it")
