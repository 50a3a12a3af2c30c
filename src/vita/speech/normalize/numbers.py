"""Numbers in English words."""

from __future__ import annotations

import re

ONE_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?"  # a pattern: "1,234.5"
LONGEST = 15  # digits that are read as one number; more are read one by one
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def digits(text: str) -> str:
    """Digits one by one."""
    return " ".join(_DIGITS[int(character)] for character in text if character in "0123456789")


def cardinal(text: str) -> str:
    """An integer, written with or without separators; with leading zeros or too many digits one by one."""
    text = text.replace(",", "")
    if len(text) > LONGEST or (len(text) > 1 and text.startswith("0")):
        return digits(text)
    from num2words import num2words

    return str(num2words(int(text))).replace(",", "")


def number(text: str) -> str:
    """An integer or a decimal fraction."""
    integer, point, fraction = text.partition(".")
    words = cardinal(integer) if integer else "zero"
    return f"{words} point {digits(fraction)}" if point else words


def ordinal(value: int) -> str:
    """First, second, twenty-third."""
    from num2words import num2words

    return str(num2words(value, to="ordinal")).replace(",", "")


def year(value: int) -> str:
    """A year of four digits: in two halves, but for 2000 to 2009."""
    from num2words import num2words

    return re.sub(r"\boh-", "oh ", str(num2words(value, to="year")).replace(",", ""))


def is_singular(text: str) -> bool:
    """Whether a unit after this number is singular."""
    return text.replace(",", "") == "1"


def plural(text: str, unit: str) -> str:
    """A number and its unit."""
    return f"{number(text)} {unit}{'' if is_singular(text) else 's'}"
