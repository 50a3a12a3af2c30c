"""A checked reader of configuration values: type, bounds, and one sentence that names the key."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from vita.errors import CheckpointError


class Settings:
    """One mapping of a parsed configuration file.

    A key whose value is null counts as missing. Every method raises `CheckpointError`, naming file, key and what is
    allowed, where a value is of another type or out of bounds, or where a key without a default is missing.

    Args:
        data: the parsed mapping.
        where: its file, for error sentences.
        prefix: path of this mapping inside the file, with its separator.
    """

    def __init__(self, data: Mapping[str, object], where: object, prefix: str = "") -> None:
        self.data, self.where, self.prefix = data, where, prefix

    def __contains__(self, key: str) -> bool:
        return self.data.get(key) is not None

    def fail(self, key: str, what: str, fix: str | None = None) -> NoReturn:
        """Refuse a value, e.g. `fail("hidden_act", "is not supported")`."""
        raise CheckpointError(f"{self.prefix}{key} {what}", where=self.where, fix=fix)

    def _value(self, key: str, default: object) -> object:
        value = self.data.get(key)
        if value is None and default is None:
            self.fail(key, "is missing")
        return default if value is None else value

    def integer(self, key: str, default: int | None = None, low: int = 1, high: int = 1 << 20) -> int:
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fail(key, f"must be an integer from {low} to {high}, not {show(value)}")
        return value

    def number(self, key: str, default: float | None = None, *, low: float, high: float) -> float:
        value = self._value(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
            self.fail(key, f"must be a number from {low:g} to {high:g}, not {show(value)}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            self.fail(key, f"must be true or false, not {show(value)}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            self.fail(key, f"must be a text, not {show(value)}")
        return value

    def choice(self, key: str, default: str, allowed: Sequence[str]) -> str:
        value = self.text(key, default)
        if value not in allowed:
            self.fail(key, f"{show(value)} is not supported", fix=f"use {' or '.join(allowed)}")
        return value

    def items(self, key: str) -> list[object]:
        """A list; missing is empty."""
        value = self._value(key, [])
        if not isinstance(value, (list, tuple)):
            self.fail(key, f"must be a list, not {show(value)}")
        return list(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; missing is empty."""
        items = self.items(key)
        if not all(isinstance(item, str) for item in items):
            self.fail(key, f"must be a list of texts, not {show(items)}")
        return tuple(str(item) for item in items)

    def vector(self, key: str, length: int, default: Sequence[float] | None = None) -> tuple[float, ...]:
        """Finite numbers, `length` of them."""
        value = self._value(key, default)
        if not isinstance(value, (list, tuple)) or len(value) != length or not all(map(is_finite, value)):
            self.fail(key, f"must be a list of {length} finite numbers, not {show(value)}")
        return tuple(float(item) for item in value)

    def section(self, key: str) -> Settings:
        """A nested mapping; missing is empty."""
        value = self._value(key, {})
        if not isinstance(value, Mapping):
            self.fail(key, f"must be a mapping, not {show(value)}")
        return Settings({str(k): v for k, v in value.items()}, self.where, f"{self.prefix}{key}.")

    def refuse(self, keys: Mapping[str, tuple[object, ...]]) -> None:
        """Refuse keys that would change the computation.

        Args:
            keys: for each key the values with which it changes nothing. Without such values it must be false, zero or
                empty. Missing keys are fine.
        """
        for key, harmless in keys.items():
            if key not in self:
                continue
            value = self.data[key]
            same = any(value == fine and isinstance(value, bool) == isinstance(fine, bool) for fine in harmless)
            if not same and (harmless or value):
                self.fail(key, f"is {show(value)}, which is not supported")


def is_finite(value: object) -> bool:
    """Whether a value is a number that float64 holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def show(value: object) -> str:
    """A short form of a wrong value for error sentences, on one line and at most 100 characters."""
    if isinstance(value, bool):
        return str(value).lower()
    short = reprlib.Repr()
    short.maxlevel = 2  # lists of lists grow with their depth
    short.maxstring = 90
    text = short.repr(value)
    return text if len(text) <= 100 else text[:99] + "…"


def show_name(name: str) -> str:
    """A name of a checkpoint for error sentences: as it is, unless a terminal would obey it or it is very long."""
    return name if name.isprintable() and len(name) < 256 else show(name)
