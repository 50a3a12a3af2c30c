"""Emoji, addresses and leftover symbols, in English and Chinese words."""

from __future__ import annotations

import ipaddress
import re
import unicodedata

_URL = re.compile(
    r"\b(?:https?|ftp)://[!#-;=?-~]{1,2000}|\bwww\.[!#-;=?-~]{1,2000}"
    r"|\b(?:[a-z0-9-]{2,63}\.){1,4}(?:com|org|net|io|dev|ai|edu|gov|cn|co|uk|de|info)(?:/[!#-;=?-~]{0,500})?(?![\w@])",
    re.IGNORECASE | re.ASCII,
)
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,5}[a-z]{2,20}\b", re.IGNORECASE | re.ASCII)
_IN_ADDRESS = {
    "en": {".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", ":": "colon", "?": "question mark",
           "=": "equals", "&": "and", "#": "hash", "+": "plus", "%": "percent", "~": "tilde"},
    "zh": {".": "点", "/": "斜杠", "-": "杠", "_": "下划线", "@": "艾特", ":": "冒号", "?": "问号", "=": "等于",
           "&": "和", "#": "井号", "+": "加", "%": "百分号", "~": "波浪号"},
}  # fmt: skip
# Candidates; the module ipaddress decides.
_IP = re.compile(
    r"(?<![\w.:])(?P<address>[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})"
    r"(?P<port>(?<!:):[0-9]{1,5}|/[0-9]{1,3})?(?![\w:]|\.[0-9])",
    re.ASCII,
)
_DIGITS = {"en": "0123456789", "zh": "零一二三四五六七八九"}
_IN_IP = {"en": {":": "colon", "port": "port", "/": "slash", ".": "dot"},
          "zh": {":": "冒号", "port": "端口", "/": "斜杠", ".": "点"}}  # fmt: skip
LONGEST_PATH = 40  # characters of an address after its host that are read; the rest is a burden to hear


def speak_addresses(text: str, language: str) -> str:
    """URLs and e-mail addresses, spelled at their punctuation; IP addresses digit by digit."""
    words = _IN_ADDRESS.get(language)
    if words is None:
        return text
    text = _EMAIL.sub(lambda found: _spell(found[0], words), text)
    text = _URL.sub(lambda found: _url(found[0], words), text)
    return _IP.sub(lambda found: _ip(found, language), text)


def _ip(found: re.Match[str], language: str) -> str:
    """An IPv4 or IPv6 address with its port or length of prefix; anything else as it is."""
    try:
        ipaddress.ip_address(found["address"])
    except ValueError:
        return found[0]
    words, digits = _IN_IP[language], _DIGITS[language]
    spelled = [words.get(c, digits[int(c)] if c in "0123456789" else c) for c in found["address"].lower()]
    rest = found["port"] or ""
    if rest:
        spelled += [words["port" if rest[0] == ":" else "/"], *(digits[int(c)] for c in rest[1:])]
    return f" {' '.join(spelled)} " if language == "en" else "".join(spelled)


def _url(address: str, words: dict[str, str]) -> str:
    kept = address.rstrip(".,;:!?)]}'*_")
    tail = address[len(kept) :]
    host, slash, path = re.sub(r"^[a-z]+://", "", kept, flags=re.IGNORECASE).partition("/")
    path = path.rstrip("/").split("?")[0].split("#")[0]
    shown = host if not path or len(path) > LONGEST_PATH else host + slash + path
    return _spell(shown, words) + tail


def _spell(address: str, words: dict[str, str]) -> str:
    spelled = "".join(f" {words[c]} " if c in words else c if c.isalnum() else " " for c in address)
    return f" {spelled} "


def speak_emoji(text: str, language: str) -> str:
    """Drop emoji between words; say the name of those that stand alone."""
    if text.isascii():
        return text
    import emoji

    without = emoji.replace_emoji(text, " ").replace("\u200d", "").replace("\ufe0f", "")
    if any(c.isalnum() for c in without):
        return without
    found = [item["emoji"] for item in emoji.emoji_list(text)][:3]  # a row of them is not read to its end
    code = language if language in emoji.LANGUAGES else "en"
    names = [emoji.demojize(one, language=code, delimiters=("", "")).replace("_", " ") for one in dict.fromkeys(found)]
    return ", ".join(name for name in names if any(c.isalnum() for c in name))


_QUOTES = re.compile(r"[\"“”„«»「」『』《》〈〉‹›]|(?<![A-Za-z])['‘’]|['‘’](?![A-Za-z])")
_BRACKETS = re.compile(r"\s*[(\[{（【〔]\s*")
_CLOSING = re.compile(r"\s*[)\]}）】〕]")
_DASHES = re.compile(r"\s*(?:—|–|―|--+|⸺)\s*|\s+-\s+")
_SILENT = re.compile(r"[\\|^~*_#<>=`@•·●○■□▪◆◇★☆→←↑↓⇒⇐✓✔✗✘©®™§¶†‡¦]+")
_DOUBLED = re.compile(r"[,;:，、；：\s]*([,，、;；:：])(?:\s*[,，、;；:：])+|[,;:，、；：]+\s*(?=[.!?。！？…])")
_AFTER_STOP = re.compile(r"(?<=[.!?。！？])\s*[,，、;；:：]")
_SPACES = re.compile(r"\s+")
_SPACE_BEFORE = re.compile(r"\s+(?=[,.;:!?，。；：！？、])")
_REPEATED = re.compile(r"([.!?。！？])\1+")


def tidy(text: str) -> str:
    """Quotes and leftover symbols removed, brackets and dashes as commas, white space as one space."""
    comma = "，" if re.search(r"[\u4e00-\u9fff]", text) else ", "
    text = text.replace("’", "'").replace("‘", "'").replace("…", "。" if comma == "，" else ".")
    text = _QUOTES.sub("", text)
    text = _BRACKETS.sub(comma, text)
    text = _CLOSING.sub(comma, text)
    text = _DASHES.sub(comma, text)
    text = _SILENT.sub(" ", text).replace("/", " ").replace("&", " ")
    text = "".join(character if _is_kept(character) else " " for character in text)
    text = _SPACE_BEFORE.sub("", _SPACES.sub(" ", text))
    text = _REPEATED.sub(r"\1", _DOUBLED.sub(r"\1", text))
    text = _SPACES.sub(" ", _AFTER_STOP.sub("", text))
    return text.strip().lstrip(",;:.!?，。；：！？、 ")


def _is_kept(character: str) -> bool:
    """Letters, digits, Latin and Chinese punctuation, and combining marks, which many scripts need."""
    if character.isalnum() or character.isspace() or ord(character) < 0x300 or character in "，。；：！？、":
        return True
    return unicodedata.category(character) in ("Mn", "Mc", "Lm")
