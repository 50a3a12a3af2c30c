"""The `vita` command: ask, say, chat, batch, serve, info, pull, list, rm, convert, verify, bench, eval and doctor."""

from __future__ import annotations

from typing import NoReturn

from vita.cli.guard import end_process, run_guarded


def main() -> NoReturn:
    """The entry point of the `vita` command."""
    end_process(run)


def run() -> NoReturn:
    """Run the command named by `sys.argv`; raises SystemExit with its exit code."""

    def start() -> int:
        from vita.cli.app import app

        code = app(prog_name="vita", standalone_mode=False)  # a command's typer.Exit arrives here as its exit code
        return code if isinstance(code, int) else 0

    def flags() -> dict[str, str]:
        from vita.cli.app import flag_names

        return flag_names()

    run_guarded(start, flags)
