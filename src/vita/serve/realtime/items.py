"""Items of a realtime conversation, read from and written as OpenAI's JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vita.serve.errors import JSON, ApiError
from vita.serve.parts import Reader
from vita.serve.realtime.codec import decode_audio
from vita.serve.realtime.dialect import part_type_to_ga
from vita.serve.realtime.events import Object, RealtimeError, check_id, mapping, new_id
from vita.serve.realtime.session import Format, rate_of
from vita.sources import Array
from vita.types import Audio, Image, Part, Text

Pcm = NDArray[np.int16]
Status = Literal["in_progress", "completed", "incomplete"]
ROLES = ("user", "assistant", "system")
PART_TYPES = {
    "user": ("input_text", "input_audio", "input_image"), "system": ("input_text",),
    "assistant": ("output_text", "output_audio"),
}  # fmt: skip
MAX_SHOWN_URL = 1024  # characters of an image's URL that is sent back; a longer one is left out
MAX_SHOWN_AUDIO = 96_000  # samples that fit into one event


@dataclass(eq=False)
class Content:
    """One content part of a message.

    Attributes:
        type: GA name.
        text: of a text part, or what was said; None: not known.
        audio: mono, int16 `[n]`.
        rate: of `audio`, in Hz.
        image: as the model takes it.
        image_url: as the client gave it.
    """

    type: str
    text: str | None = None
    audio: Pcm | None = None
    rate: int = 0
    image: Image | None = None
    image_url: str = ""

    def as_json(self, *, audio: bool = False) -> dict[str, JSON]:
        """OpenAI's object; `audio` includes PCM16 at `rate`, unless it does not fit into an event."""
        if self.type in ("input_text", "output_text"):
            return {"type": self.type, "text": self.text or ""}
        if self.type == "input_image":
            shown = self.image_url if len(self.image_url) <= MAX_SHOWN_URL else None
            return {"type": self.type, "image_url": shown} if shown else {"type": self.type}
        out: dict[str, JSON] = {"type": self.type, "transcript": self.text}
        if audio and self.audio is not None and len(self.audio) <= MAX_SHOWN_AUDIO:
            out["audio"] = base64.b64encode(self.audio.astype("<i2").tobytes()).decode()
        return out

    @property
    def has_media(self) -> bool:
        """Whether it holds an image or audio."""
        return self.image is not None or self.audio is not None

    def as_part(self) -> Part | None:
        """What the model is given; None: nothing."""
        if self.image is not None:
            return self.image
        if self.type == "input_audio" and self.audio is not None and len(self.audio):
            return Audio(Array(self.audio, "the user's speech"), self.rate)
        return Text(self.text) if self.text else None


@dataclass(eq=False)
class Item:
    """One item of a conversation.

    Attributes:
        id: the client's or ours.
        type: "message", "function_call" or "function_call_output".
        role: of a message.
        status: "completed" once nothing is added any more.
        content: of a message.
        fields: of the other types: call_id, name, arguments, output.
        is_cut: an answer that was truncated; nothing is added any more.
    """

    id: str
    type: str = "message"
    role: str = "user"
    status: Status = "completed"
    content: list[Content] = field(default_factory=list)
    fields: dict[str, JSON] = field(default_factory=dict)
    is_cut: bool = False

    def as_json(self, *, audio: bool = False) -> dict[str, JSON]:
        """OpenAI's object."""
        out: dict[str, JSON] = {
            "id": self.id, "object": "realtime.item", "type": self.type, "status": self.status,
        }  # fmt: skip
        if self.type != "message":
            return {**out, **self.fields}
        return {**out, "role": self.role, "content": [part.as_json(audio=audio) for part in self.content]}

    @property
    def has_media(self) -> bool:
        """Whether a part of it holds an image or audio."""
        return any(part.has_media for part in self.content)

    @property
    def is_frame(self) -> bool:
        """Whether it is a camera frame: one image of the user, and nothing else."""
        return self.role == "user" and len(self.content) == 1 and self.content[0].type == "input_image"

    @property
    def characters(self) -> int:
        """Of its texts."""
        return sum(len(part.text or "") for part in self.content) + sum(len(str(v)) for v in self.fields.values())

    def as_turn(self) -> tuple[str, list[Part]]:
        """Role and parts for the prompt."""
        if self.type == "function_call_output":
            return "user", [Text(str(self.fields.get("output") or ""))]
        if self.type == "function_call":
            return "assistant", [Text(str(self.fields.get("arguments") or ""))]
        parts = [part for content in self.content if (part := content.as_part()) is not None]
        return self.role, parts


def spoken_item(item_id: str, audio: Pcm, rate: int) -> Item:
    """The item of a turn that the user spoke."""
    return Item(item_id, content=[Content("input_audio", audio=audio, rate=rate)])


def read_item(given: Object, reader: Reader, input_format: Format, where: str = "item") -> Item:
    """An item that a client sent.

    Args:
        given: its JSON.
        reader: counts the parts of this item and holds the policy for media.
        input_format: of audio in it.
        where: it stands, for errors.

    Raises:
        RealtimeError: naming the field.
    """
    item_id = check_id(given["id"], f"{where}.id") if given.get("id") is not None else new_id("item")
    kind = given.get("type", "message")
    if kind in ("function_call", "function_call_output"):
        return _read_call(given, str(kind), item_id, where)
    if kind != "message":
        raise RealtimeError(f"{where}.type: there is no item type {str(kind)[:40]!r}.", param=f"{where}.type")
    role = given.get("role")
    if role not in ROLES:
        raise RealtimeError(f"{where}.role must be one of {', '.join(ROLES)}.", param=f"{where}.role")
    content = given.get("content", [])
    if not isinstance(content, list):
        raise RealtimeError(f"{where}.content must be a list.", "invalid_type", f"{where}.content")
    if len(content) > reader.limits.parts:
        raise RealtimeError(f"An item holds {reader.limits.parts} parts at most.", param=f"{where}.content")
    parts = [
        _read_part(part, str(role), reader, input_format, f"{where}.content[{n}]") for n, part in enumerate(content)
    ]
    return Item(item_id, role=str(role), content=parts)


def _read_call(given: Object, kind: str, item_id: str, where: str) -> Item:
    wanted = ("call_id", "name", "arguments") if kind == "function_call" else ("call_id", "output")
    fields: dict[str, JSON] = {}
    for name in wanted:
        value = given.get(name, "" if name == "call_id" else None)
        if not isinstance(value, str):
            raise RealtimeError(f"{where}.{name} must be a string.", "invalid_type", f"{where}.{name}")
        fields[name] = value
    return Item(item_id, kind, fields=fields)


def _read_part(given: JSON, role: str, reader: Reader, input_format: Format, where: str) -> Content:
    part = mapping(given, where)
    kind = str(part.get("type"))
    kind = part_type_to_ga(kind) if role == "assistant" else "input_text" if kind == "text" else kind
    if kind not in PART_TYPES[role]:
        known = ", ".join(PART_TYPES[role])
        raise RealtimeError(f"{where}.type: an item of the {role} holds {known}.", param=f"{where}.type")
    try:
        if kind in ("input_text", "output_text"):
            return Content(kind, text=reader.text(_text(part, "text", where) or "", where).text)
        if kind == "input_image":
            url = _text(part, "image_url", where)
            if not url:
                raise RealtimeError(f"{where}.image_url must be a data: URL.", param=f"{where}.image_url")
            return Content(kind, image=Image(reader.source(url, f"{where}.image_url")), image_url=url)
    except ApiError as error:
        raise RealtimeError(error.message, error.code or "invalid_value", error.param) from error
    data = _text(part, "audio", where)
    audio = None if not data else decode_audio(data, input_format, f"{where}.audio")
    if audio is not None and not len(audio):
        raise RealtimeError(f"{where}.audio holds no samples.", param=f"{where}.audio")
    return Content(kind, text=_text(part, "transcript", where), audio=audio, rate=rate_of(input_format))


def _text(part: Mapping[str, JSON], name: str, where: str) -> str | None:
    value = part.get(name)
    if value is not None and not isinstance(value, str):
        raise RealtimeError(f"{where}.{name} must be a string.", "invalid_type", f"{where}.{name}")
    return value
