"""The language of a clause, by its script."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

CJK_START = 0x2E80  # code points from here on are about three Latin letters wide in speech

# The first word of a letter's Unicode name, and the language that is most often written with it.
SCRIPTS = {
    "CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CYRILLIC": "ru", "GREEK": "el", "ARABIC": "ar",
    "HEBREW": "he", "DEVANAGARI": "hi", "THAI": "th", "BENGALI": "bn", "TAMIL": "ta", "TELUGU": "te",
    "KANNADA": "kn", "MALAYALAM": "ml", "GUJARATI": "gu", "GEORGIAN": "ka", "ARMENIAN": "hy", "ETHIOPIC": "am",
}  # fmt: skip


def language_of(text: str, default: str = "en") -> str:
    """The language of a text, BCP 47.

    Args:
        text: a clause.
        default: where most letters are Latin, or there are none.
    """
    counts: Counter[str] = Counter()
    for character in text:
        script = _script(character)
        if script:
            counts[SCRIPTS.get(script, default)] += 3 if script in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL") else 1
    if counts["ja"]:  # Japanese is written with Chinese characters, too
        counts["ja"] += counts.pop("zh", 0)
    return max(counts, key=lambda language: counts[language]) if counts else default


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    return unicodedata.name(character, "").split(" ")[0].split("-")[0] if character.isalpha() else ""
