"""Extras: what to run where an optional package is missing."""

from __future__ import annotations


def install(extra: str) -> str:
    """The command that installs an extra of this package, as the `fix` of an error."""
    return f'run pip install "vita-engine[{extra}]"'
