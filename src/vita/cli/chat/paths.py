"""Find the paths in a line of input, as shells and terminals write them.

A terminal that a file is dropped into types its path: bare, with `\\ ` for a space, in quotes, or as a file: URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vita.media.suffixes import URL, Kind, kind_of

Exists = Callable[[str], bool]

WORD = re.compile(r"\S+")
# How a path with a folder in it, or a URL, begins; a quote may stand before it.
PATH = re.compile(r"[\"']?(~?/|\.\.?/|(https?|file)://)", re.IGNORECASE)
LONGEST = 4096  # characters of a path, or of all paths at one end of a line
MOST_WORDS = 32  # of a path with bare spaces


@dataclass(frozen=True)
class Dropped:
    """What a line of input names: media files, and the text that is left.

    Attributes:
        files: kind and path of each, in reading order. The kind is None where the name does not tell it.
        text: the rest of the line.
    """

    files: tuple[tuple[Kind | None, str], ...]
    text: str


def is_file(path: str) -> bool:
    """Whether there is such a file, a named pipe included; `~` is the home folder."""
    try:
        found = Path(path).expanduser()
        return found.is_file() or found.is_fifo()
    except (OSError, ValueError, RuntimeError):  # too long a name, a null byte, the home of an unknown user
        return False


def is_folder(path: str) -> bool:
    """Whether there is such a folder."""
    try:
        return Path(path).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):
        return False


def first_word(text: str) -> tuple[str, str]:
    """The first word of a line as a POSIX shell reads it, and the rest without the white space between.

    A quote inside a word is literal unless it follows a quoted or escaped part, so that "What's this?" is two words
    and `'it'\\''s.png'` is one.
    """
    word: list[str] = []
    at, quoted = 0, True  # whether a quote at this position opens a quoted part
    while at < len(text) and not text[at].isspace():
        character = text[at]
        end = _closing(text, at) if quoted and character in "\"'" else -1
        if end > 0:
            inside = text[at + 1 : end]
            word.append(inside if character == "'" else re.sub(r'\\(["\\$`])', r"\1", inside))
            at, quoted = end + 1, True
        elif character == "\\" and at + 1 < len(text):
            word.append(text[at + 1])
            at, quoted = at + 2, True
        else:
            word.append(character)
            at, quoted = at + 1, False
    return _from_file_url("".join(word)), text[at:].lstrip()


def _closing(text: str, start: int) -> int:
    """Position of the quote that closes the one at `start`; -1 if there is none."""
    at = start + 1
    while at < len(text):
        if text[at] == text[start]:
            return at
        at += 2 if text[start] == '"' and text[at] == "\\" else 1
    return -1


def _from_file_url(word: str) -> str:
    """The path of a file: URL of this machine; anything else as it is."""
    if not word.lower().startswith("file:"):
        return word
    try:
        parts = urlsplit(word)
    except ValueError:
        return word
    return unquote(parts.path) if parts.netloc in ("", "localhost") and parts.path else word


def existing_path(text: str, exists: Exists = is_file) -> tuple[str, str] | None:
    """The file that a text begins with, and the text after it; None if it begins with none.

    The longest one: a path with bare spaces is taken before a shorter file of its first words.
    """
    words = islice(WORD.finditer(text[:LONGEST]), MOST_WORDS)
    for end in sorted((found.end() for found in words), reverse=True):
        if exists(text[:end]):
            return text[:end], text[end:].lstrip()
    word, rest = first_word(text)
    return (word, rest) if word and exists(word) else None


def split_path(text: str, exists: Exists = is_file) -> tuple[str, str]:
    """The path that a text begins with, whether or not there is such a file, and the question after it.

    Args:
        text: what follows a command such as /image; not empty.
        exists: whether there is such a file.
    """
    found = existing_path(text, exists)
    if found is not None:
        return found
    word, rest = first_word(text)
    if kind_of(word) is None and not URL.match(word) and text[0] not in "\"'":
        # A name with bare spaces that is not there: up to the first suffix of a media file.
        for end in (found.end() for found in WORD.finditer(text)):
            if kind_of(text[:end]) is not None:
                return text[:end], text[end:].lstrip()
    return word, rest


def find_dropped(line: str, exists: Exists = is_file) -> Dropped:
    """The media files at the beginning and at the end of a line that is no command.

    A line that is nothing but a path names that file, whatever its suffix is and whether or not it exists. Inside a
    question only files that exist and have a suffix of media are taken.
    """
    line = line.strip()
    alone = _lone_path(line, exists)
    if alone is not None and (looks_like_path(alone) or kind_of(alone) is not None):
        return Dropped(((kind_of(alone), alone),), "")
    leading: list[tuple[Kind | None, str]] = []
    while (media := _media_path(line, exists)) is not None:
        kind, path, line = media
        leading.append((kind, path))
    text, trailing = _take_trailing(line, exists)
    return Dropped((*leading, *trailing), text)


def looks_like_path(text: str) -> bool:
    """Whether a text is written as a path with a folder in it, or as a URL; a quote may stand before it."""
    return PATH.match(text) is not None


def _lone_path(line: str, exists: Exists) -> str | None:
    """The path or URL that is the whole line, whether or not there is such a file; None if it is something else."""
    if len(line) > LONGEST:
        return None
    word, rest = first_word(line)
    for path in (line, *([word] if not rest else [])):
        if exists(path):
            return path
    if not rest and looks_like_path(word) and (kind_of(word) is not None or is_folder(word)):
        return word
    bare = looks_like_path(line) and "\n" not in line and kind_of(line) is not None
    return line if bare and not any(kind_of(part) for part in line.split()[:-1]) else None


def _media_path(text: str, exists: Exists) -> tuple[Kind, str, str] | None:
    """The media file that a text begins with, if it is written as a path: its kind, its path and the rest."""
    if not looks_like_path(text):
        return None
    found = existing_path(text, exists)
    if found is None:
        return None
    path, rest = found
    kind = kind_of(path)
    return (kind, path, rest) if kind is not None and looks_like_path(path) else None


def _take_trailing(line: str, exists: Exists) -> tuple[str, list[tuple[Kind | None, str]]]:
    """The line without the media files at its end, and those files."""
    for start in (found.start() for found in WORD.finditer(line, max(0, len(line) - LONGEST))):
        if start and not line[start - 1].isspace():
            continue  # a word that is cut by the limit
        rest, files = line[start:], []
        while rest and (found := _media_path(rest, exists)) is not None:
            kind, path, rest = found
            files.append((kind, path))
        if files and not rest:
            return line[:start].rstrip(), list(files)
    return line, []
