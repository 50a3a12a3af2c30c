"""Rewrite operators, fractions and "C#" so that they can be read: "!=" as "≠"."""

from __future__ import annotations

import re
import unicodedata

# In this order: the longer ones first.
_OPERATORS = (
    (re.compile(r"!={1,2}|=/="), "≠"),
    (re.compile(r"(?<![<=])[-=]{1,2}>(?![>=])|⇒|⟶|➔|➜"), "→"),
    (re.compile(r"(?<![<-])<-{1,2}(?=\s)|⇐|⟵"), "←"),
    (re.compile(r"<=(?![=>])"), "≤"),
    (re.compile(r">=(?!=)"), "≥"),
    (re.compile(r"(?<![=<>])={2,3}(?![=>])"), "="),
    (re.compile(r"(?<!&)&&(?!&)"), "&"),
)
_OR = re.compile(r"\s\|\|\s")
_OR_WORDS = {"en": " or ", "zh": "或"}
_SHARP = re.compile(r"(?<![\w#])([A-GJ])[#♯](?![A-Za-z#])", re.ASCII)  # a programming language, or a note
_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_FRACTION = re.compile(rf"([0-9]?)\s?([{_VULGAR}])(\s?[-–—]\s?(?=[0-9{_VULGAR}]))?")
_BETWEEN = {"en": (" ", " to "), "zh": ("又", "到")}  # an integer and its fraction; the ends of a range


def single_operators(text: str) -> str:
    """Operators of programming languages as the one sign that means the same."""
    for pattern, sign in _OPERATORS:
        text = pattern.sub(sign, text)
    return text


def spell_operators(text: str, language: str) -> str:
    """Operators, "C#", and in English and Chinese fractions of one character.

    Args:
        text: without markup.
        language: BCP 47, the primary subtag.
    """
    text = single_operators(text)
    text = _OR.sub(_OR_WORDS.get(language, " "), text)
    text = _SHARP.sub(r"\1 sharp ", text)
    if language in _BETWEEN:
        integer, to = _BETWEEN[language]

        def fraction(found: re.Match[str]) -> str:
            before = found[1] + integer if found[1] else " " if language == "en" else ""
            return before + unicodedata.normalize("NFKC", found[2]).replace("\u2044", "/") + (to if found[3] else "")

        text = _FRACTION.sub(fraction, text)
    return text
