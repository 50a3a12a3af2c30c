"""Turn every way a command can end into a sentence and an exit code.

0 success · 1 a bug, or a check that failed · 2 an error that the user can fix · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from vita.cli.output import replace_unencodable
from vita.cli.streams import CLOSED, is_failed_write, open_closed_streams
from vita.errors import VitaError
from vita.runtime.disk import full_sentence, is_full

SHOW_CURSOR = "\x1b[?25h"


Flags = Callable[[], Mapping[str, str]]  # an option's name in Python to its flag; called only after an error


def run_guarded(command: Callable[[], int], flags: Flags = dict) -> NoReturn:
    """Run a command and raise SystemExit with its exit code; a user never sees a traceback.

    Args:
        command: returns an exit code.
        flags: of this command line. Errors about an option show its flag, `--max-tokens` for `max_tokens`.
    """
    stdout_closed = open_closed_streams()
    replace_unencodable()
    code = 1
    try:
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            sys.stderr.write(SHOW_CURSOR + "\n")
        code = 130
    except BrokenPipeError:
        code = 0
    except SystemExit as stop:
        code = 0 if isinstance(stop.__context__, BrokenPipeError) else _code(stop)  # typer turns it into an exit
    except BaseException as error:
        code = say(CLOSED, 2) if stdout_closed and is_failed_write(error) else _explain(error, flags)
    _leave(code)


def end_process(command: Callable[[], NoReturn]) -> NoReturn:
    """Run a command that raises SystemExit, and end the process at once.

    `os._exit` skips the interpreter's shutdown, which takes a third of a second with PyTorch loaded. The command has
    flushed both streams and closed its files.
    """
    try:
        command()
    except SystemExit as stop:
        os._exit(_code(stop))


def _code(stop: SystemExit) -> int:
    return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2


def with_flag(error: VitaError, flags: Mapping[str, str]) -> str:
    """The error's sentence, with every option named by its flag."""
    return error.sentence(flags)


def _explain(error: BaseException, flags: Flags) -> int:
    import typer

    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, typer.Abort):
        return 130
    if hasattr(error, "format_message"):  # a usage error of typer, whose class has moved between versions
        context = getattr(error, "ctx", None)
        hint = f" See '{context.command_path} --help'." if context is not None else ""
        message = str(error.format_message()).rstrip(".")
        return say(message + ("" if message.endswith("?") else ".") + hint, 2)
    if isinstance(error, VitaError):
        return say(with_flag(error, flags()), 2)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return say("the memory is not enough for this request; close other programs or send less at once.", 2)
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return say("the memory is not enough for this request; close other programs or send less at once.", 2)
    if isinstance(error, OSError) and is_full(error):
        what, fix = full_sentence(error)
        return say(f"{error.filename or 'the disk'}: {what}; {fix}.", 2)
    if os.environ.get("VITA_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return say(
        f"this is a bug of ours, please report it: {type(error).__name__}: {error} (VITA_DEBUG=1 shows where).", 1
    )


def say(sentence: str, code: int) -> int:
    """One sentence on stderr; returns the exit code."""
    sys.stderr.write(f"vita: {sentence}\n")
    return code


def _leave(code: int) -> NoReturn:
    """Raise SystemExit; a closed pipe or a full disk is no error any more."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
