"""Remove what is not heard: control characters, template tokens, Markdown and HTML."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

_TEMPLATE = re.compile(r"<\|[^<>|\n]{0,40}\|>|</?(?:unk|s|pad|bos|eos)>|[☜☞☟]")
_CODE = r"(?P<code>(?<!`)(?P<ticks>`{1,3})(?!`).+?(?<!`)(?P=ticks)(?!`))"
# Closing tags and comments, tags with attributes, and the bare tags of _TAGS; the rest may be "<your name>".
_HTML = re.compile(
    _CODE + r"|</[A-Za-z][\w:-]{0,30}\s?>|<!--.*?-->|<[!?][A-Za-z\[][^<>\n]{0,200}>"
    r"|<[A-Za-z][\w:-]{0,30}\s+[\w:@-]{1,30}\s?=[^<>\n]{0,200}>|<(?P<tag>[A-Za-z][\w:-]{0,30})\s?/?>",
    re.DOTALL,
)
_TAGS = frozenset((
    "a", "abbr", "b", "big", "blockquote", "br", "center", "cite", "dd", "del", "details", "div", "dl", "dt", "em",
    "figure", "font", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "html", "i", "iframe", "ins", "kbd", "li", "mark",
    "nav", "ol", "p", "pre", "q", "rp", "rt", "ruby", "samp", "script", "small", "span", "strike",
    "strong", "style", "sub", "sup", "svg", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "tt", "u", "ul",
    "var", "wbr",
))  # fmt: skip
# Words in angle brackets: a placeholder or the type of an element. "a <b and c> d" compares.
_NAMED = re.compile(r"</?([A-Za-z][\w.-]{0,40}|[A-Za-z][\w.-]{1,40}(?:,? ?[\w.'\"/-]{1,40}){1,5}) ?>")
_THOUSANDS = re.compile(r"(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")  # spaces that keep a number together
_HEADING = re.compile(r"^\s*#{1,6}[ \t]+|[ \t]+#{1,6}\s*$")
_MARKERS = re.compile(r"^[ \t]*(?:(?:[-*+•]|>)[ \t]+(?:\[[ xX]\][ \t]+)?)+", re.MULTILINE)
_RULE = re.compile(r"^\s*(?:[-*_=][ \t]*){3,}\s*$|^\s*\|?(?:\s*:?-+:?\s*\|)+\s*(?::?-+:?)?\s*$")
_UNDERLINE = re.compile(r"\s*^[ \t]*(?:={3,}|-{3,})[ \t]*$", re.MULTILINE)  # of a title
_ROW = re.compile(r"^\s*\|(.*?)\|?\s*$")
_TIMES = re.compile(r"(?<=[0-9)])\s*\*\s*(?=[0-9(])")
# Operators of code such as "x*y*2", where one factor at least is a number or one letter: no emphasis.
_FACTORS = re.compile(r"(?<![\w*])\w+(?:\*(?![*])[\w(]+)+(?!\*)", re.ASCII)
_SPACED_TIMES = re.compile(r"(?:(?<=[0-9)])|(?<=\b[A-Za-z])) \* (?=[0-9(]|[A-Za-z]\b)", re.ASCII)
_CODE_TIMES = re.compile(r"(?<=[\w)\]])\*(?=[\w(])")
_LINES = r"(?<![A-Za-z0-9])_+|_+(?![A-Za-z0-9])"
_STRAY_LINES = re.compile(_LINES)
_STRAY = re.compile(rf"\*+|`+|~~|{_LINES}")


def clean_characters(text: str) -> str:
    """Drop control, format and private characters, combining marks in excess, and template tokens."""
    text = _THOUSANDS.sub("", _TEMPLATE.sub(" ", text))
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
    text = _without_html(_UNDERLINE.sub(lambda found: "," if text[found.end() :].strip() else "", text))
    row = _ROW.match(text)
    if row:
        text = ", ".join(cell.strip() for cell in row[1].split("|") if cell.strip())
    text = _MARKERS.sub("", _HEADING.sub("", text))
    text = _SPACED_TIMES.sub(" × ", _FACTORS.sub(_factors, _TIMES.sub(" × ", text)))
    if any(character in text for character in "*_`[]~\\&<!"):
        text = "".join(_content(token) for token in _parser().parseInline(text)[0].children or [])
    return re.sub(r"\s*\n\s*", " ", text)


def _without_html(text: str) -> str:
    """HTML removed; the words in other angle brackets stay, and so does inline code."""
    closed = {name.lower() for name in re.findall(r"</([A-Za-z][\w:-]{0,30})\s?>", text)}

    def replace(found: re.Match[str]) -> str:
        tag = (found["tag"] or "").lower()
        return found[0] if found["code"] or (tag and tag not in _TAGS and tag not in closed) else " "

    text = _HTML.sub(replace, text)
    for _ in range(3):  # nested from the inside, as in "List<List<int>>"
        text = _NAMED.sub(r" \1 ", text)
    return text


def _factors(found: re.Match[str]) -> str:
    factors = found[0].split("*")
    is_product = any(factor.isdigit() or len(factor) == 1 for factor in factors)
    return " × ".join(factors) if is_product else found[0]


@cache
def _parser() -> MarkdownIt:
    # HTML is removed before; what is left, as in "a <b and c> d", is text.
    return MarkdownIt("commonmark").enable("strikethrough").disable("html_inline")


def _content(token: Token) -> str:
    if token.type in ("softbreak", "hardbreak"):
        return " "
    if token.type == "code_inline":
        return _STRAY_LINES.sub("", _CODE_TIMES.sub(" × ", token.content))
    return _STRAY.sub("", token.content)  # text, the alternative text of an image; empty for marks
