"""Go on with a stream whose replica was lost: replay the request, leave out what the client has.

A replayed answer has the same text, because it is greedy or seeded. Its ids and times differ, and its text may be cut
into events elsewhere: text is left out by characters, and the ids of the first stream are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from vita.serve.sse import data_event

PATHS_OF_CHAT = ("/v1/chat/completions",)
PATHS_OF_RESPONSES = ("/v1/responses",)
DELTA = "response.output_text.delta"
TEXT_FIELDS = ("reasoning_content", "content")  # of the delta of a choice


class Diverged(Exception):
    """The replayed text is another one than the client has."""


class Replay(Protocol):
    """Rewrites the events of one stream."""

    def restart(self) -> None:
        """From now on the events are those of a new try."""

    def __call__(self, event: bytes) -> bytes | None:
        """The event as the client gets it; None if the client has it.

        Raises:
            Diverged: the texts differ.
        """


def replay_for(path: str, fields: Mapping[str, object] | None) -> Replay | None:
    """How to replay a stream; None if its answer would be another one, or is no text."""
    if fields is None or "audio" in _list(fields.get("modalities")):
        return None
    if fields.get("temperature") and not isinstance(fields.get("seed"), int):
        return None
    if path in PATHS_OF_CHAT:
        return ChatReplay()
    if path in PATHS_OF_RESPONSES and not fields.get("temperature"):
        return ResponsesReplay()
    return None


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def parse(event: bytes) -> dict[str, Any] | None:
    """The JSON object of an event; None for a ping, `[DONE]` and anything else."""
    data = b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
    try:
        found = json.loads(data) if data.startswith(b"{") else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class SentText:
    """The text of one answer that the client has."""

    def __init__(self) -> None:
        self._sent = self._pending = ""

    def restart(self) -> None:
        """The text comes again from its beginning."""
        self._pending = self._sent

    def new_part(self, text: str) -> str:
        """What of the next piece the client does not have.

        Raises:
            Diverged: it does not continue what the client has.
        """
        if self._pending.startswith(text):
            self._pending = self._pending[len(text) :]
            return ""
        if not text.startswith(self._pending):
            raise Diverged
        text, self._pending = text[len(self._pending) :], ""
        self._sent += text
        return text

    def end(self) -> None:
        """The text is complete.

        Raises:
            Diverged: it is shorter than what the client has.
        """
        if self._pending:
            raise Diverged


class ChatReplay:
    """Chunks of /v1/chat/completions: in each choice a text, and before it its reasoning."""

    def __init__(self) -> None:
        self._texts: dict[tuple[int, str], SentText] = {}  # by choice and field of the delta
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._head: dict[str, Any] = {}  # id and time of the first stream
        self._replayed = False

    def restart(self) -> None:
        self._replayed = True
        for text in self._texts.values():
            text.restart()

    def __call__(self, event: bytes) -> bytes | None:
        chunk = parse(event)
        if chunk is None or "choices" not in chunk:
            return event
        self._head = self._head or {name: chunk.get(name) for name in ("id", "created")}
        choices = [choice for choice in chunk["choices"] if self._is_new(choice)]
        if chunk["choices"] and not choices:
            return None
        return data_event({**chunk, **self._head, "choices": choices}) if self._replayed else event

    def _is_new(self, choice: dict[str, Any]) -> bool:
        """Whether the client does not have it; text that it has is taken out of it."""
        index, delta = choice["index"], choice["delta"]
        if choice.get("finish_reason") is not None:
            for (of, _), text in self._texts.items():
                if of == index:
                    text.end()
            return _first_time(index, self._ended)
        if "role" in delta:
            return _first_time(index, self._begun)
        for field in TEXT_FIELDS:
            if field in delta:
                delta[field] = self._texts.setdefault((index, field), SentText()).new_part(delta[field] or "")
        return not self._replayed or any(delta.get(field) for field in TEXT_FIELDS)


def _first_time(index: int, seen: set[int]) -> bool:
    """Whether an index was not seen before; it is now."""
    if index in seen:
        return False
    seen.add(index)
    return True


class ResponsesReplay:
    """Events of /v1/responses."""

    def __init__(self) -> None:
        self._text = SentText()
        self._seen: set[str] = set()
        self._ids: dict[str, str] = {}  # by kind, of the first stream
        self._renamed: dict[bytes, bytes] = {}  # ids of this try to those
        self._number = -1
        self._created: object = None
        self._replayed = False

    def restart(self) -> None:
        self._replayed = True
        self._text.restart()

    def __call__(self, event: bytes) -> bytes | None:
        fields = parse(event)
        if fields is None or not isinstance(fields.get("type"), str):
            return event
        kind = fields["type"]
        self._note_ids(fields)
        if kind == DELTA:
            fields["delta"] = self._text.new_part(fields.get("delta") or "")
            if not fields["delta"]:
                return None
        elif kind in self._seen:
            return None
        elif kind == "response.output_text.done":
            self._text.end()
        self._seen.add(kind)
        self._number += 1
        if not self._replayed:
            return event
        if isinstance(fields.get("response"), dict):
            fields["response"]["created_at"] = self._created
        rewritten = data_event({**fields, "sequence_number": self._number}, kind)
        for new, old in self._renamed.items():
            rewritten = rewritten.replace(new, old)
        return rewritten

    def _note_ids(self, fields: dict[str, Any]) -> None:
        for name in ("response", "item"):
            found = fields.get(name)
            if isinstance(found, dict) and isinstance(found.get("id"), str):
                first = self._ids.setdefault(name, found["id"])
                if first != found["id"]:
                    self._renamed[found["id"].encode()] = first.encode()
                if name == "response" and self._created is None:
                    self._created = found.get("created_at")
