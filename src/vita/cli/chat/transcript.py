"""The conversation as text, for /save."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vita.errors import RequestError


@dataclass(frozen=True)
class Exchange:
    """A question and its answer.

    Attributes:
        question: typed text; empty if audio was the question.
        media: kind and path of each file that was attached.
        answer: its text, as far as it was given out.
        tries: how often the question was answered.
    """

    question: str
    media: tuple[tuple[str, str], ...] = ()
    answer: str = ""
    tries: int = 1


def save_transcript(name: str, exchanges: Sequence[Exchange], model: str, system: str | None) -> None:
    """Write a conversation to a new file, a pipe or a device: JSON if the name ends in .json, else Markdown.

    Args:
        name: path of the file, as it was typed. A symbolic link is followed.
        exchanges: oldest first.
        model: its name.
        system: the system text; None: the built-in one.

    Raises:
        RequestError: there is nothing to save, the file exists, or it cannot be written.
    """
    if not exchanges:
        raise RequestError("there is nothing to save yet", where="/save", fix="ask a question first")
    write = as_json if name.lower().endswith(".json") else as_markdown
    data = write(exchanges, model, system).encode(errors="replace")  # names of files may be bytes that are not UTF-8
    try:
        _write_new(name, data)
    except FileExistsError:
        raise RequestError("exists already", where=name, fix="choose another name") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot be written ({reason})", where=name, fix="choose another file") from error


def _write_new(name: str, data: bytes) -> None:
    """Write what does not exist yet, or is a pipe or a device. A file that cannot be written in full is removed.

    Raises:
        RequestError: it is a folder. FileExistsError: a file has this name. OSError, ValueError, RuntimeError: as
        usual.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        raise RequestError("is a folder", where=name, fix="add the name of a file")
    if name.endswith(os.sep):
        raise RequestError("ends in a slash, which names a folder", where=name, fix="add the name of a file")
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    target = path.resolve() if path.is_symlink() else path  # mode "x" does not follow a link
    out = target.open("xb")
    try:
        with out:
            out.write(data)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def as_markdown(exchanges: Sequence[Exchange], model: str, system: str | None) -> str:
    """Questions and answers under their speakers' names."""
    parts = [f"# Conversation with {model}"]
    if system is not None:
        parts.append(f"System text: {system}")
    for exchange in exchanges:
        media = [f"[{kind}: {path}]" for kind, path in exchange.media]
        parts.append("\n".join(["**You:**", *media, *([exchange.question] if exchange.question else [])]))
        parts.append(f"**VITA:**\n{exchange.answer}")
    return "\n\n".join(parts) + "\n"


def as_json(exchanges: Sequence[Exchange], model: str, system: str | None) -> str:
    """An object with the model, the system text and the messages."""
    messages: list[dict[str, object]] = []
    for exchange in exchanges:
        media = [{"kind": kind, "path": path} for kind, path in exchange.media]
        messages.append({"role": "user", "content": exchange.question, "media": media})
        messages.append({"role": "assistant", "content": exchange.answer})
    value = {"model": model, "system": system, "messages": messages}
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
