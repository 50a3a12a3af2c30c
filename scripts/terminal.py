"""Run a program in a terminal of its own: type into it, read its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyte

CTRL_C, CTRL_D = "\x03", "\x04"
UP, ALT_ENTER = "\x1b[A", "\x1b\r"


class Screen(pyte.Screen):
    """A screen that answers the program's questions, such as where the cursor is."""

    answer: Callable[[bytes], object] = staticmethod(lambda data: None)

    def write_process_input(self, data: str) -> None:
        self.answer(data.encode())


class Process(Protocol):
    """What a terminal does with its program."""

    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


def start_process(command: Sequence[str], terminal: int, env: Mapping[str, str], cwd: Path | None) -> Process:
    """Start a program whose streams and controlling terminal are this one."""
    return subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=cwd, start_new_session=True, env=env,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
    )  # fmt: skip


class Terminal:
    """A program in a pseudo-terminal.

    Args:
        command: the program and its arguments.
        columns, rows: size of the screen.
        env: should hold TERM=xterm-256color.
        changed: called with the screen after every piece of output.
        start: starts the program.
    """

    def __init__(
        self, command: Sequence[str], *, columns: int = 100, rows: int = 30, env: Mapping[str, str] | None = None,
        cwd: Path | None = None, changed: Callable[[Screen], None] | None = None,
        start: Callable[[Sequence[str], int, Mapping[str, str], Path | None], Process] = start_process,
    ) -> None:  # fmt: skip
        self.screen = Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._changed = changed
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.answer = lambda data: os.write(self._ours, data)
        inherited = os.environ if env is None else env
        own = {k: v for k, v in inherited.items() if k not in ("COLUMNS", "LINES")}  # those are another terminal's
        self.process = start(command, theirs, own, cwd)
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    @property
    def lines(self) -> list[str]:
        """The screen without the empty lines at its end."""
        return self.text.split("\n")

    @property
    def text(self) -> str:
        """The lines of the screen, without white space at their ends."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def type(self, text: str) -> None:
        """Type keys."""
        os.write(self._ours, text.encode())

    def read(self, seconds: float) -> bool:
        """Show what is printed within so many seconds; False once the program has closed its terminal."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._ours], [], [], left)[0]:
                return True
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # Linux ends a closed terminal with an error
                return False
            if not data:
                return False
            self._stream.feed(data)
            if self._changed is not None:
                self._changed(self.screen)
        return True

    def wait(self, enough: str | Callable[[str], bool], seconds: float = 60) -> str:
        """The screen, once it shows a text.

        Raises:
            AssertionError: it does not show it in time.
        """
        end = time.monotonic() + seconds
        alive = True
        while not (enough in self.text if isinstance(enough, str) else enough(self.text)):
            if not alive or time.monotonic() > end:
                raise AssertionError(f"the screen never showed {enough!r}:\n{self.text}")
            alive = self.read(0.05)
        return self.text

    def end(self, seconds: float = 60) -> int:
        """The exit code, once the program has ended and all it printed is shown."""
        end = time.monotonic() + seconds
        while self.read(0.1) and time.monotonic() < end:
            pass
        return self.process.wait(max(0.1, end - time.monotonic()))
