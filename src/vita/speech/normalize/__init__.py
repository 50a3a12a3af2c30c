"""Text as it is spoken: numbers, dates, symbols, links, emoji and markup become words of the answer's language."""

from __future__ import annotations

from vita.speech.language import canonical_tag
from vita.speech.normalize.algebra import spell_algebra
from vita.speech.normalize.chinese import chinese_words
from vita.speech.normalize.english import english_words
from vita.speech.normalize.formula import speak_formulas
from vita.speech.normalize.markup import clean_characters, plain_text
from vita.speech.normalize.operators import spell_operators
from vita.speech.normalize.signs import spell_signs
from vita.speech.normalize.symbols import speak_addresses, speak_emoji, tidy

__all__ = ["announce_code", "is_speakable", "spoken_text"]


def spoken_text(text: str, language: str) -> str:
    """Words and punctuation that say what a clause means.

    Args:
        text: a clause of an answer: plain text, or Markdown.
        language: BCP 47. English and Chinese are normalised in full; in other languages markup and emoji are removed,
            signs become words in German, French, Spanish, Italian and Portuguese, and the voice reads the numbers.

    Returns:
        One line; empty if there is nothing to say. Text without markup, numbers or symbols stays as it is.
    """
    language = canonical_tag(language).split("-")[0]
    text = clean_characters(text)
    text = speak_formulas(text, language)
    text = spell_operators(plain_text(text), language)
    text = speak_emoji(text, language)
    text = spell_algebra(speak_addresses(text, language), language)
    if language == "en":
        text = english_words(text)
    elif language == "zh":
        text = chinese_words(text)
    else:
        text = spell_signs(text, language)
    text = tidy(text)
    return text if is_speakable(text) else ""


def is_speakable(text: str) -> bool:
    """Whether a text has a letter or digit."""
    return any(character.isalnum() for character in text)


def announce_code(name: str, language: str) -> str:
    """What is said in place of a block of code.

    Args:
        name: of its programming language, as written after the fence; may be empty.
        language: of the answer, BCP 47.
    """
    name = "".join(character for character in name.split(" ")[0] if character.isalnum())
    if canonical_tag(language).split("-")[0] == "zh":
        return f"这里是一段 {name} 代码。" if name else "这里是一段代码。"
    return f"Here is a block of {name} code." if name else "Here is a block of code."
