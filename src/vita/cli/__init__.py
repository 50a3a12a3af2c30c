"""The command line: `vita ask | chat | info | verify | doctor`. A thin surface over the Python API."""

from __future__ import annotations

from vita.cli.guard import run_guarded


def main() -> None:
    """The entry point of the `vita` command."""

    def start() -> int:
        from vita.cli.app import app

        code = app(prog_name="vita", standalone_mode=False)  # a command's typer.Exit arrives here as its exit code
        return code if isinstance(code, int) else 0

    run_guarded(start)
