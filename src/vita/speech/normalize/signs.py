"""Signs as words of German, French, Spanish, Italian and Portuguese, whose voices read the numbers."""

from __future__ import annotations

import re

_SIGNS = ["≠", "=", "<", ">", "≤", "≥", "→", "×", "÷", "&", "@", "€", "$", "£", "¥"]
_WORDS = {
    "de": ("ist ungleich", "ist gleich", "ist kleiner als", "ist größer als", "ist höchstens", "ist mindestens",
           "nach", "mal", "geteilt durch", "und", "at", "Euro", "Dollar", "Pfund", "Yen"),
    "fr": ("est différent de", "égale", "est inférieur à", "est supérieur à", "est au plus", "est au moins", "vers",
           "fois", "divisé par", "et", "arobase", "euros", "dollars", "livres", "yens"),
    "es": ("no es igual a", "es igual a", "es menor que", "es mayor que", "es como máximo", "es como mínimo", "a",
           "por", "entre", "y", "arroba", "euros", "dólares", "libras", "yenes"),
    "it": ("è diverso da", "è uguale a", "è minore di", "è maggiore di", "è al massimo", "è almeno", "a", "per",
           "diviso", "e", "chiocciola", "euro", "dollari", "sterline", "yen"),
    "pt": ("é diferente de", "é igual a", "é menor que", "é maior que", "é no máximo", "é no mínimo", "para", "vezes",
           "dividido por", "e", "arroba", "euros", "dólares", "libras", "ienes"),
}  # fmt: skip
_TO = {"de": "bis", "fr": "à", "es": "a", "it": "a", "pt": "a"}  # between the ends of a range
_AMOUNT = re.compile(r"([€$£¥])\s?([0-9][0-9.,]*(?<![.,]))")  # the sign is read after it
_TIMES = re.compile(r"(?<=[0-9]:[0-5][0-9])\s?[-–—]\s?(?=[0-2]?[0-9]:[0-5][0-9])")
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))


def spell_signs(text: str, language: str) -> str:
    """Replace signs by words; text in another language stays as it is.

    Args:
        text: without markup.
        language: BCP 47, the primary subtag.
    """
    if language not in _WORDS:
        return text
    words = dict(zip(_SIGNS, _WORDS[language], strict=True))
    text = _TIMES.sub(f" {_TO[language]} ", _AMOUNT.sub(r"\2 \1", text))
    return _SIGN.sub(lambda found: f" {words[found[0]]} ", text)
