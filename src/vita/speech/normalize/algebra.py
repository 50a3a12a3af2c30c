"""Powers and differences in plain text, in English and Chinese: "2**3", "n-1", "y = -x", "UTC-8"."""

from __future__ import annotations

import re

# A number, a letter or a bracket on both sides. Bold text has spaces or words there.
_POWER = re.compile(
    r"(?:(?<=[0-9)\]])|(?<=^[A-Za-z])|(?<=[^A-Za-z_][A-Za-z]))(?P<space> ?)\*\*(?P=space)"
    r"(?=[-−+]?(?:[0-9]|[A-Za-z](?![A-Za-z]))|\()"
)
_STARS = re.compile(rf"(?P<power>{_POWER.pattern})|\*\*+")
_WORDS = {"en": (" minus ", " minus "), "zh": ("减", "负")}  # between two terms, and before one
_SUM = r"[0-9.]+(?:\s?[-+×*/÷−]\s?[0-9.]+)*"
# One letter is a variable only if it is a usual one: "vitamin b-12" and "k-12 schools" are names.
_DIFFERENCES = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"(?<=[0-9])\s?[-–−]\s?(?={_SUM}\s?=(?:\s?[-−0-9?]|\s*\Z))",  # "7-3=4"; without the result it is a range
        r"(?P<before>[0-9]\s?=\s?[0-9.]+)\s?[-−]\s?(?=[0-9])",  # "4 = 7-3"
        r"(?<![\w.-])(?P<before>[0-9]+[ijkpqrtuvw])[-−](?=[0-9]+(?![\w-]))",
        r"(?<![\w.-])(?P<before>[0-9]+(?P<letter>[nxyz]))\s?[-−]\s?"  # not the range "2x-3x"
        r"(?![0-9]+(?P=letter))(?=[0-9]+[a-z]?(?![\w-])|[a-z](?![\w-]))",
        r"(?<![\w'’.-])(?P<before>[pqrtxyz])[-−](?=[0-9]{1,3}(?![\w-]))",
        r"(?<![\w'’.-])(?P<before>[ijkmn])[-−](?=[0-9](?![\w-]))",
        r"(?<![\w'’.-])(?P<before>[ijkmnpqrtxyz])\s+[-−–]\s+(?=[0-9]|[ijkmnpqrtxyz](?![\w'’-]))",
        r"(?:(?<=\bsquared)|(?<=\bcubed)|(?<=平方)|(?<=立方)|(?<=次方))\s?[-−]\s?(?=[0-9A-Za-z(])",
    )
)
# Only in an equation or a question: "11 / 72 / 112 ms" are three values.
_QUOTIENT = re.compile(rf"(?<=[0-9])\s/\s(?={_SUM}\s?[=?])|(?P<before>=\s?[0-9.]+)\s/\s(?=[0-9.]+(?![0-9.]*\s/))")
# After an operator, or the bracket of a function.
_NEGATIVE = re.compile(r"(?:(?<=[=<>≤≥≠≈×+])|(?<=[=<>≤≥≠≈×+] )|(?<=[a-z]\())[-−](?=[A-Za-z](?![\w-]))", re.ASCII)
_ZONE = re.compile(r"\b(GMT|UTC)\s?([-−–+])\s?0?([0-9]{1,2})(?::?([0-9]{2}))?(?![0-9:])", re.ASCII)


def powers_of_stars(text: str) -> str:
    """Powers as "2^3", so that no reader of Markdown takes their stars for marks."""
    is_bold = False

    def replace(found: re.Match[str]) -> str:
        nonlocal is_bold
        rest = found.string[found.end() :]
        if found["power"] and not (is_bold and (rest.startswith("(") or "**" not in rest)):
            return "^"
        is_bold = not is_bold
        return found[0]

    return _STARS.sub(replace, text) if "**" in text else text


def spell_algebra(text: str, language: str) -> str:
    """The minus of differences, of negative variables and of time zones, and the stroke of quotients, as words.

    Args:
        text: without markup, its formulas and powers in words.
        language: BCP 47, the primary subtag; text in other languages than English and Chinese stays as it is.
    """
    if language not in _WORDS or not any(sign in text for sign in "-−–/"):
        return text
    divided = "除以" if language == "zh" else " divided by "
    text = _QUOTIENT.sub(lambda found: f"{found['before'] or ''}{divided}", text)
    between, before = _WORDS[language]
    text = _ZONE.sub(lambda found: zone(found[1], found[2], found[3], found[4], language), text)
    for pattern in _DIFFERENCES:
        text = pattern.sub(lambda found: f"{found.groupdict().get('before') or ''}{between}", text)
    return _NEGATIVE.sub(before, text)


def zone(name: str, sign: str, hours: str, minutes: str | None, language: str) -> str:
    """A time zone by its distance from another one: "UTC minus 8"."""
    plus, minus = ("加", "减") if language == "zh" else (" plus ", " minus ")
    offset = f"{name}{plus if sign == '+' else minus}{int(hours)}"
    return f"{offset}:{minutes}" if minutes and int(minutes) else offset
