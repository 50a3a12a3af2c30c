"""Read input line by line: with completion and history on a terminal, else plainly."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Protocol

from vita.errors import RequestError

CONTINUED = "\\"  # at the end of a line: the input goes on in the next one
INDENT = "  "  # before the second and later lines of an input


class Reader(Protocol):
    """Reads the user's input.

    Attributes:
        on_terminal: whether somebody types it.
    """

    on_terminal: bool

    def read(self, prompt: str) -> str | None:
        """The next input, which may have several lines; None if Ctrl-C discarded what was typed.

        Raises:
            EOFError: the end of input. KeyboardInterrupt: Ctrl-C when nothing was typed.
        """
        ...


class PlainReader:
    """Lines of stdin, for files, pipes and simple terminals; arrow keys where Python was built with readline."""

    def __init__(self) -> None:
        self.on_terminal = sys.stdin.isatty()
        if self.on_terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401
        elif hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")  # a file may hold bytes that are not UTF-8

    def read(self, prompt: str) -> str | None:
        """See `Reader`.

        Raises:
            RequestError: standard input cannot be read.
        """
        try:
            lines = [input(prompt if self.on_terminal else "")]
            while lines[-1].endswith(CONTINUED):
                lines[-1] = lines[-1].removesuffix(CONTINUED)
                try:
                    lines.append(input(INDENT if self.on_terminal else ""))
                except EOFError:
                    break
        except (EOFError, KeyboardInterrupt):
            if self.on_terminal:
                print()  # the cursor stands behind the prompt
            raise
        except BrokenPipeError:  # of the output
            raise
        except OSError as error:
            if error.errno == errno.ENOSPC:  # of the output, which `input` flushes
                raise
            reason = error.strerror or error
            fix = "pipe questions to it"
            raise RequestError(f"cannot be read ({reason})", where="standard input", fix=fix) from error
        return "\n".join(lines)


def open_reader() -> Reader:
    """The reader for this process's streams: plain in a pipe, on a simple terminal and without prompt_toolkit."""
    if sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        with contextlib.suppress(ImportError):
            from vita.cli.chat.prompt import PromptReader

            return PromptReader()
    return PlainReader()
