"""Commands whose help shows no type beside a flag that takes no value, as in `--help <bool>`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command; `--help` is an option of it."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, in the order of the help."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """The program; `--help`, `--version` and those of shell completion are options of it."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, in the order of the help."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters
