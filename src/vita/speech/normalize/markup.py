"""Remove what is not heard: control characters, template tokens, Markdown and HTML."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

_TEMPLATE = re.compile(r"<\|[^<>|\n]{0,40}\|>|</?(?:unk|s|pad|bos|eos)>|[☜☞☟]")
_HTML = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,15}(?:\s[^<>\n]{0,200})?/?>|<!--.*?-->", re.DOTALL)
_HEADING = re.compile(r"^\s*#{1,6}[ \t]+|[ \t]+#{1,6}\s*$")
_MARKERS = re.compile(r"^[ \t]*(?:(?:[-*+•]|>)[ \t]+(?:\[[ xX]\][ \t]+)?)+", re.MULTILINE)
_RULE = re.compile(r"^\s*(?:[-*_=][ \t]*){3,}\s*$|^\s*\|?(?:\s*:?-+:?\s*\|)+\s*(?::?-+:?)?\s*$")
_ROW = re.compile(r"^\s*\|(.*?)\|?\s*$")
_TIMES = re.compile(r"(?<=[0-9)])\s*\*\s*(?=[0-9(])")
_STRAY = re.compile(r"\*+|`+|~~|(?<![A-Za-z0-9])_+|_+(?![A-Za-z0-9])")


def clean_characters(text: str) -> str:
    """Drop control, format and private characters, combining marks in excess, and template tokens."""
    text = _TEMPLATE.sub(" ", text)
    kept: list[str] = []
    marks = 0
    for character in unicodedata.normalize("NFC", text):
        category = unicodedata.category(character)
        marks = marks + 1 if category == "Mn" else 0
        if character in "\n\t" or category in ("Zs", "Zl", "Zp"):
            kept.append("\n" if character == "\n" else " ")
        elif category in ("Cc", "Cs", "Co", "Cn"):
            kept.append(" ")
        elif "\uff01" <= character <= "\uff5e" and character.isalnum():
            kept.append(unicodedata.normalize("NFKC", character))  # full-width letters and digits
        elif marks <= 2 and (category != "Cf" or character == "\u200d"):  # the joiner makes emoji
            kept.append(character)
    return "".join(kept)


def plain_text(text: str) -> str:
    """The text of a clause of Markdown: marks, link targets and HTML removed, cells of a table separated by commas."""
    if _RULE.match(text):
        return ""
    text = _HTML.sub(" ", text)
    row = _ROW.match(text)
    if row:
        text = ", ".join(cell.strip() for cell in row[1].split("|") if cell.strip())
    text = _MARKERS.sub("", _HEADING.sub("", text))
    text = _TIMES.sub(" × ", text)
    if any(character in text for character in "*_`[]~\\&<!"):
        text = "".join(_content(token) for token in _parser().parseInline(text)[0].children or [])
        text = _STRAY.sub("", text)
    return re.sub(r"\s*\n\s*", " ", text)


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable("strikethrough")


def _content(token: Token) -> str:
    if token.type in ("softbreak", "hardbreak"):
        return " "
    if token.type == "html_inline":
        return " "
    return token.content  # text, code, the alternative text of an image; empty for marks
