"""Realtime events: names, required fields, ids, errors.

Names and fields are those of the GA dialect; `dialect` translates the older beta one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from vita.serve.body import parse_json
from vita.serve.errors import JSON

Object: TypeAlias = Mapping[str, JSON]
Event: TypeAlias = dict[str, JSON]  # with "type" and "event_id"

MAX_EVENT_BYTES = 256 << 10  # of a server event; a client of the specification closes above 512 KiB
MAX_ID = 64  # characters of an id that a client chooses
INVALID, SERVER = "invalid_request_error", "server_error"

# Fields that a client event must have, with the JSON type of each.
CLIENT_EVENTS: dict[str, dict[str, type]] = {
    "session.update": {"session": dict},
    "transcription_session.update": {"session": dict},  # of the beta dialect
    "input_audio_buffer.append": {"audio": str},
    "input_audio_buffer.commit": {},
    "input_audio_buffer.clear": {},
    "conversation.item.create": {"item": dict},
    "conversation.item.delete": {"item_id": str},
    "conversation.item.truncate": {"item_id": str, "audio_end_ms": int},
    "conversation.item.retrieve": {"item_id": str},
    "response.create": {},
    "response.cancel": {},
    "output_audio_buffer.clear": {},
}

_PART = ("response_id", "item_id", "output_index", "content_index")
_USER_PART = ("item_id", "content_index")
# Fields that a server event has beside "type" and "event_id".
SERVER_EVENTS: dict[str, tuple[str, ...]] = {
    "error": ("error",),
    "session.created": ("session",),
    "session.updated": ("session",),
    "input_audio_buffer.committed": ("previous_item_id", "item_id"),
    "input_audio_buffer.cleared": (),
    "input_audio_buffer.speech_started": ("audio_start_ms", "item_id"),
    "input_audio_buffer.speech_stopped": ("audio_end_ms", "item_id"),
    "input_audio_buffer.timeout_triggered": ("audio_start_ms", "audio_end_ms", "item_id"),
    "output_audio_buffer.cleared": ("response_id",),
    "conversation.item.added": ("previous_item_id", "item"),
    "conversation.item.done": ("previous_item_id", "item"),
    "conversation.item.deleted": ("item_id",),
    "conversation.item.truncated": ("item_id", "content_index", "audio_end_ms"),
    "conversation.item.retrieved": ("item",),
    "conversation.item.input_audio_transcription.delta": (*_USER_PART, "delta"),
    "conversation.item.input_audio_transcription.completed": (*_USER_PART, "transcript", "usage"),
    "conversation.item.input_audio_transcription.failed": (*_USER_PART, "error"),
    "response.created": ("response",),
    "response.done": ("response",),
    "response.output_item.added": ("response_id", "output_index", "item"),
    "response.output_item.done": ("response_id", "output_index", "item"),
    "response.content_part.added": (*_PART, "part"),
    "response.content_part.done": (*_PART, "part"),
    "response.output_text.delta": (*_PART, "delta"),
    "response.output_text.done": (*_PART, "text"),
    "response.output_audio.delta": (*_PART, "delta"),
    "response.output_audio.done": _PART,
    "response.output_audio_transcript.delta": (*_PART, "delta"),
    "response.output_audio_transcript.done": (*_PART, "transcript"),
}
DELTAS = frozenset(
    ("response.output_text.delta", "response.output_audio.delta", "response.output_audio_transcript.delta")
)


@dataclass(eq=False)
class RealtimeError(Exception):
    """An error that the client is told; the session goes on.

    Attributes:
        message: one sentence.
        code: OpenAI's name where a client looks for it.
        param: the field it is about.
        kind: "invalid_request_error" or "server_error".
    """

    message: str
    code: str | None = "invalid_value"
    param: str | None = None
    kind: str = INVALID

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class ClientEvent:
    """A client's event whose required fields are there."""

    type: str
    body: Object
    event_id: str | None = None


def new_id(prefix: str) -> str:
    """A new id, such as "item_…": for "event", "sess", "conv", "item", "resp"."""
    return f"{prefix}_{secrets.token_urlsafe(15)}"


def make_event(kind: str, **fields: JSON) -> Event:
    """A server event with an id."""
    assert set(fields) == set(SERVER_EVENTS[kind]), f"{kind} has the fields {SERVER_EVENTS[kind]}, not {tuple(fields)}"
    return {"type": kind, "event_id": new_id("event"), **fields}


def error_event(error: RealtimeError, event_id: str | None) -> Event:
    """The event for an error.

    Args:
        error: what to say.
        event_id: of the client's event that caused it.
    """
    return make_event(
        "error",
        error={
            "type": error.kind, "code": error.code, "message": error.message, "param": error.param,
            "event_id": event_id,
        },
    )  # fmt: skip


def parse_event(text: str) -> tuple[ClientEvent | RealtimeError, str | None]:
    """Read a client's message, whose size and depth were checked.

    Returns:
        The event, or what is wrong with it, and its id if it has one.
    """
    try:
        body = parse_json(text)
    except (ValueError, RecursionError):
        return RealtimeError("The message is not valid JSON.", "invalid_json"), None
    if not isinstance(body, dict):
        return RealtimeError("A message must be a JSON object.", "invalid_json"), None
    given = body.get("event_id")
    event_id = given if isinstance(given, str) else None
    try:
        return _checked(body, event_id), event_id
    except RealtimeError as error:
        return error, event_id


def _checked(body: Object, event_id: str | None) -> ClientEvent:
    kind = body.get("type")
    if not isinstance(kind, str):
        raise RealtimeError("An event must have a type.", "missing_required_parameter", "type")
    required = CLIENT_EVENTS.get(kind)
    if required is None:
        known = ", ".join(CLIENT_EVENTS)
        raise RealtimeError(f"There is no client event {kind[:64]!r}; known are {known}.", "invalid_value", "type")
    for name, wanted in required.items():
        if name not in body:
            raise RealtimeError(f"{kind} needs {name}.", "missing_required_parameter", name)
        value = body[name]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise RealtimeError(f"{name} must be of type {_JSON_TYPES[wanted]}.", "invalid_type", name)
    return ClientEvent(kind, body, event_id)


_JSON_TYPES = {dict: "object", str: "string", int: "integer"}


def mapping(value: JSON, param: str) -> Object:
    """The value itself, an object.

    Raises:
        RealtimeError: it is none.
    """
    if not isinstance(value, Mapping):
        raise RealtimeError(f"{param} must be an object.", "invalid_type", param)
    return value


def check_id(value: JSON, param: str) -> str:
    """An id that a client chose.

    Raises:
        RealtimeError: not a string of 1 to 64 characters.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID:
        raise RealtimeError(f"{param} must be a string of 1 to {MAX_ID} characters.", "invalid_value", param)
    return value
