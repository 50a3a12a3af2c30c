"""Completion of commands and paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from vita.cli.chat.commands import COMMANDS, HIDDEN
from vita.media.suffixes import kind_of

COMMAND_NAME = re.compile(r"/[A-Za-z]*$")
COMMAND_ARGUMENT = re.compile(r"/([A-Za-z]+)\s+(.*)$", re.DOTALL)
# What a path may be that begins in the middle of a question; white space in it is escaped or in quotes.
PATH_IN_TEXT = re.compile(r"(?:^|(?<=\s))(\"[^\"]*|'[^']*|(?:~?/|\.\.?/)(?:\\.|[^\s\\])*)$")
SPECIAL = re.compile(r"([\s\\'\"])")


class ChatCompleter(Completer):
    """Commands at the beginning of the input, paths after a command or wherever one is begun."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What may stand at the cursor."""
        text = document.text_before_cursor
        if COMMAND_NAME.match(text):
            named = list(complete_command(text))
            yield from named or complete_path(text)
            return
        command = COMMAND_ARGUMENT.match(text)
        known = COMMANDS.get(command[1].lower()) if command is not None else None
        if command is not None and known is not None and known.completes and _is_one_word(command[2]):
            yield from complete_path(command[2], known.completes)
            return
        begun = PATH_IN_TEXT.search(text)
        if begun is not None:
            yield from complete_path(begun[1])


def complete_command(text: str) -> Iterator[Completion]:
    """The commands that begin with a text such as "/im"."""
    for name, command in COMMANDS.items():
        if name.startswith(text[1:].lower()) and name not in HIDDEN:
            yield Completion(f"/{name} " if command.arguments else f"/{name}", -len(text), f"/{name}", command.help)


def complete_path(typed: str, wanted: str = "file") -> list[Completion]:
    """The files and folders that a path may go on with. Without a quote, special characters are escaped.

    Args:
        typed: the path so far, as it is written: escaped, or after an opening quote.
        wanted: "file", or the kind of media that are listed; if a folder holds none of these, all of it is listed.
    """
    quote = typed[:1] if typed[:1] in ("'", '"') else ""
    path = typed[1:] if quote else re.sub(r"\\(.)", r"\1", typed)
    folder, slash, begin = path.rpartition("/")
    try:
        found = sorted(Path(folder + slash).expanduser().iterdir(), key=lambda entry: entry.name.lower())
        entries = [(entry.name, entry.is_dir()) for entry in found]
    except (OSError, ValueError, RuntimeError):
        return []
    entries = [
        (name, is_folder)
        for name, is_folder in entries
        if name.startswith(begin) and (begin.startswith(".") or not name.startswith("."))
    ]
    if wanted != "file":
        suitable = [entry for entry in entries if entry[1] or kind_of(entry[0]) == wanted]
        entries = suitable if any(not is_folder for _, is_folder in suitable) else entries
    out = []
    for name, is_folder in entries:
        rest = name if quote else SPECIAL.sub(r"\\\1", name)
        start = begin if quote else SPECIAL.sub(r"\\\1", begin)
        out.append(Completion(rest + "/" * is_folder, -len(start), name + "/" * is_folder))
    return out


def _is_one_word(text: str) -> bool:
    """Whether a command's argument is still its path, not the question after it."""
    if text[:1] in ("'", '"'):
        return text.find(text[0], 1) < 0
    return re.search(r"(?<!\\)\s", text) is None
