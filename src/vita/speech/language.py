"""Languages: tags, the language of a clause by its script, and foreign scripts in Latin letters."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby

CJK_START = 0x2E80  # code points from here on are about three Latin letters wide in speech

# The first word of a letter's Unicode name, and the language that is most often written with it.
SCRIPTS = {
    "CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CYRILLIC": "ru", "GREEK": "el", "ARABIC": "ar",
    "HEBREW": "he", "DEVANAGARI": "hi", "THAI": "th", "BENGALI": "bn", "TAMIL": "ta", "TELUGU": "te",
    "KANNADA": "kn", "MALAYALAM": "ml", "GUJARATI": "gu", "GEORGIAN": "ka", "ARMENIAN": "hy", "ETHIOPIC": "am",
}  # fmt: skip


# Languages that share the script of another one: written in it, a text is in the default language if that is one.
SHARED = {
    "zh": ("zh", "ja", "yue", "hak"), "ar": ("fa", "ur", "sd", "ug"), "hi": ("mr", "ne", "kok"), "he": ("yi",),
    "el": ("grc",), "bn": ("as", "bpy"), "hy": ("hyw",),
    "ru": ("uk", "be", "bg", "mk", "sr", "kk", "ky", "tt", "ba", "cv", "nog"),
}  # fmt: skip
# Codes that stand for another one.
ALIASES = {"cmn": "zh", "no": "nb", "iw": "he", "in": "id", "ji": "yi"}
# Languages that are not written in Latin letters.
NOT_LATIN = frozenset(
    (
        *SCRIPTS.values(), "as", "ba", "be", "bg", "bpy", "chr", "cv", "fa", "grc", "hak", "hyw", "kk", "kok", "ky",
        "mk", "mr", "my", "ne", "nog", "or", "pa", "sd", "shn", "si", "sr", "tt", "ug", "uk", "ur", "yi", "yue",
    )
)  # fmt: skip
_OF_SYLLABLES = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")  # scripts whose characters are about three letters wide
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]+")
# Words of English clauses that names of programs and menus do not have.
_ENGLISH_PROSE = frozenset(
    ("the", "is", "are", "was", "were", "means", "mean", "meaning", "say", "says", "said", "this", "that", "it", "i",
     "you", "we", "he", "she")
)  # fmt: skip
LATIN_1 = 0xFF  # English voices know the accents of "café", and the other letters up to here


def canonical_tag(language: str) -> str:
    """A language tag as BCP 47 writes it: "EN_us" and "en_US.UTF-8" are "en-US"."""
    primary, *rest = language.split(".")[0].split("@")[0].replace("_", "-").split("-")
    primary = primary.lower()
    parts = [part.upper() if len(part) == 2 else part.title() if len(part) == 4 else part.lower() for part in rest]
    return "-".join([ALIASES.get(primary, primary), *parts])


def find_tag(wanted: str, offered: Iterable[str]) -> str | None:
    """The offered tag that comes closest to a language: itself, or with fewer subtags, or of the same language at all.

    Args:
        wanted: in any case, with hyphens or underscores.
        offered: as a voice writes them; the first of several that are as close.
    """
    tags = {canonical_tag(tag): tag for tag in reversed([*offered])}
    parts = canonical_tag(wanted).split("-")
    for count in range(len(parts), 0, -1):
        if (tag := "-".join(parts[:count])) in tags:
            return tags[tag]
    return next((tag for found, tag in reversed(tags.items()) if found.split("-")[0] == parts[0]), None)


def in_latin_letters(text: str, language: str) -> str:
    """Letters of other scripts as Latin ones, for a voice that would spell them; the rest stays as it is.

    Args:
        text: a clause.
        language: of the voice, BCP 47; text is changed if it is written in Latin letters. In English that includes
            accents that English voices do not know, as in "Dvořák".
    """
    primary = language.split("-")[0].lower()
    if text.isascii() or primary in NOT_LATIN:
        return text
    foreign = False
    kinds: list[bool] = []
    for character in text:
        if unicodedata.category(character) not in ("Mn", "Mc"):  # a mark belongs to the letter before it
            script = _script(character)
            foreign = bool(script) and (script != "LATIN" or (primary == "en" and ord(character) > LATIN_1))
        kinds.append(foreign)
    out, position = "", 0
    for changed, group in groupby(kinds):
        end = position + len([*group])
        out += _romanized(text[position:end]) if changed else text[position:end]
        position = end
    return out


def _romanized(letters: str) -> str:
    from anyascii import anyascii

    latin = "".join(character for character in anyascii(letters) if character.isalnum())
    return latin if letters.lower() != letters.upper() else latin.lower()  # it writes each Chinese syllable as a name


def language_of(text: str, default: str = "en") -> str:
    """The language of a text, BCP 47.

    Args:
        text: a clause.
        default: where most letters are Latin or of its own script, or there are none.
    """
    counts: Counter[str] = Counter()
    for character in text:
        script = _script(character)
        if script:
            counts[SCRIPTS.get(script, default)] += 3 if script in _OF_SYLLABLES else 1
    if not counts.keys() <= {default} and _has_terms(text):
        counts[default] += sum(3 - len(word) for word in _LATIN.findall(text))
    if counts["ja"]:  # Japanese is written with Chinese characters, too
        counts["ja"] += counts.pop("zh", 0)
    found = max(counts, key=lambda language: counts[language]) if counts else default
    return default if default.split("-")[0] in (found, *SHARED.get(found, ())) else found


def _has_terms(text: str) -> bool:
    """Whether the Latin words are terms in a Chinese, Japanese or Korean clause: each counts like one character then.

    The other case is a clause that cites a word: "The word 你好 means hello." Two signs of three decide.
    """
    kinds = ["C" if _script(character) in _OF_SYLLABLES else "L" for character in text if _script(character)]
    runs = "".join(kind for kind, _ in groupby(kinds))
    prose = any(word.lower() in _ENGLISH_PROSE for word in _LATIN.findall(text))
    return (runs.startswith("C") + (runs.count("C") > 1) + (not prose)) > 1


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    return unicodedata.name(character, "").split(" ")[0].split("-")[0] if character.isalpha() else ""
