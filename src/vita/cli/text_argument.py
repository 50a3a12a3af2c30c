"""Commands whose argument is a text, which may begin with a dash: `vita say "-5 degrees"`."""

from __future__ import annotations

import re
from collections.abc import Iterable

import typer

from vita.cli.help import Command

_NUMBER = re.compile(r"-[0-9.,]*[0-9]")


class TextCommand(Command):
    """Takes an argument that cannot be an option as the text: it has white space, or begins with a negative number."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        options, texts = self._split(args)
        try:
            return super().parse_args(ctx, [*options, "--", *texts] if texts else options)
        except Exception as error:  # a usage error of typer, whose class has moved between versions
            name = getattr(error, "option_name", None)
            if isinstance(name, str) and not getattr(error, "possibilities", None):
                text = next((arg for arg in args if arg.startswith(name)), name)
                error.message = f'{error.message}; a text comes after --: {ctx.command_path} -- "{text}"'  # type: ignore[attr-defined]
            raise

    def _split(self, args: list[str]) -> tuple[list[str], list[str]]:
        """The options with their values and what looks like any other argument; texts that begin with a dash."""
        with_value = {name for p in self.params if not getattr(p, "is_flag", True) for name in p.opts}
        short = {name for p in self.params for name in (*p.opts, *p.secondary_opts) if len(name) == 2}
        options: list[str] = []
        texts: list[str] = []
        for number, arg in enumerate(args):
            if arg == "--":
                return options, [*texts, *args[number + 1 :]]
            value = number > 0 and args[number - 1] in with_value
            (texts if not value and _is_text(arg, short) else options).append(arg)
        return options, texts


def _is_text(arg: str, short: Iterable[str]) -> bool:
    if not arg.startswith("-") or arg == "-" or arg[:2] in short:
        return False
    return _NUMBER.match(arg) is not None or re.search(r"\s", arg.split("=")[0]) is not None
