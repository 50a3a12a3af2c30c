"""OpenAI's messages and content parts to `vita.Message`.

Chat completions, responses and realtime items use the same reader. Nothing is decoded here; `media_process` does that.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from vita.media.source import refuse_pipe
from vita.serve.errors import JSON, invalid
from vita.serve.options import Limits
from vita.sources import Bytes, FilePath, Source, Url
from vita.types import Audio, Image, Message, Part, Role, Text, Video

Object: TypeAlias = Mapping[str, JSON]

AUDIO_FORMATS = ("wav", "mp3", "flac", "ogg", "opus", "m4a", "mp4", "aac", "webm", "pcm16")
PCM_RATE = 24_000  # of "pcm16": mono, 16 bits, little-endian
DETAILS = ("auto", "low", "high", "original")
TEXT_TYPES = ("text", "input_text", "output_text")
IMAGE_TYPES = ("image_url", "input_image")
VIDEO_TYPES = ("video_url", "input_video", "video")
ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "user",
    "function": "user",
}  # fmt: skip


@dataclass
class Reader:
    """Reads the parts of one request and counts them.

    Args:
        limits: of the server.
        allow_urls: whether media may be named by an http(s) URL.
        folder: files may be named by a path, which starts at this folder; None: they may not.
    """

    limits: Limits
    allow_urls: bool
    folder: Path | None = None
    parts: int = 0
    characters: int = 0

    def content(self, content: JSON, where: str) -> list[Part]:
        """The parts of a message: a string, or a list of parts.

        Raises:
            ApiError: 400, naming the field.
        """
        if content is None:
            return []
        if isinstance(content, str):
            return [self.text(content, where)] if content else []
        if not isinstance(content, list):
            raise invalid(f"{where}: must be a string or a list of parts.", where)
        return [part for n, item in enumerate(content) if (part := self.part(item, f"{where}[{n}]")) is not None]

    def part(self, item: JSON, where: str) -> Part | None:
        """One content part; None for an empty text.

        Raises:
            ApiError: 400, naming the field.
        """
        self.parts += 1
        if self.parts > self.limits.parts:
            raise invalid(f"A request may hold {self.limits.parts} content parts at most.", where)
        if isinstance(item, str):
            return self.text(item, where) if item else None
        if not isinstance(item, Mapping):
            raise invalid(f"{where}: must be an object with a type.", where)
        kind = item.get("type")
        if kind in TEXT_TYPES:
            text = _string(item, "text", where)
            return self.text(text, where) if text else None
        if kind == "refusal":
            return self.text(_string(item, "refusal", where), where)
        if kind in IMAGE_TYPES:
            source, detail = self._media_url(item, "image_url", where)
            if detail not in (None, *DETAILS):
                raise invalid(f"{where}: detail must be one of {', '.join(DETAILS)}.", where)
            return Image(source, max_tiles=1 if detail == "low" else None)
        if kind in VIDEO_TYPES:
            key = next((k for k in ("video_url", "input_video", "video") if k in item), "video_url")
            return Video(self._media_url(item, key, where)[0], max_frames=min(16, self.limits.frames))
        if kind == "audio_url":
            return Audio(self._media_url(item, "audio_url", where)[0])
        if kind == "input_audio":
            return self._audio(item, where)
        if kind in ("file", "input_file"):
            raise invalid(
                f"{where}: files are not read; send images as image_url, audio as input_audio, videos as video_url.",
                where, "unsupported_parameter",
            )  # fmt: skip
        raise invalid(f"{where}.type: {str(kind)[:40]!r} is not a content part that is known here.", where)

    def text(self, text: str, where: str) -> Text:
        """A text, counted.

        Raises:
            ApiError: 400, the request's texts are too long.
        """
        self.characters += len(text)
        if self.characters > self.limits.text_characters:
            raise invalid(f"A request may hold {self.limits.text_characters:,} characters of text at most.", where)
        return Text(text)

    def _media_url(self, item: Object, key: str, where: str) -> tuple[Source, JSON]:
        """The source of an image or video part, and its `detail`."""
        value, detail = item.get(key), item.get("detail")
        if isinstance(value, Mapping):
            inner: Object = value
            value, detail = inner.get("url"), inner.get("detail", detail)
        if not isinstance(value, str) or not value:
            raise invalid(f"{where}.{key}: must name a URL.", f"{where}.{key}")
        return self.source(value, f"{where}.{key}"), detail

    def source(self, url: str, where: str) -> Source:
        """A data: or http(s) URL, or a path, as a source. Nothing is fetched.

        Raises:
            ApiError: 400, another kind of URL, or one that the server does not fetch. MediaError: a named pipe.
        """
        head = url[:16].lower()
        if head.startswith("data:"):
            return url
        if not head.startswith(("http://", "https://")):
            if self.folder is not None:
                found = url if head.startswith("file:") or "://" in url else FilePath(self.folder / url)
                refuse_pipe(found)
                return found
            raise invalid(f"{where}: must be a data: or https: URL; files on the server are not read.", where)
        if not self.allow_urls:
            raise invalid(
                f"{where}: URLs are not fetched here; send the bytes as a data: URL"
                " (or start the server with --allow-media-domain).", where,
            )  # fmt: skip
        return Url(url)

    def _audio(self, item: Object, where: str) -> Audio:
        found = item.get("input_audio", item)
        if not isinstance(found, Mapping):
            raise invalid(f"{where}.input_audio: must be an object with data and format.", where)
        data, form = found.get("data", found.get("audio")), found.get("format", "wav")
        if not isinstance(data, str) or not data:
            raise invalid(f"{where}.input_audio.data: must be base64.", f"{where}.input_audio.data")
        if form not in AUDIO_FORMATS:
            raise invalid(
                f"{where}.input_audio.format: must be one of {', '.join(AUDIO_FORMATS)}.", f"{where}.input_audio.format"
            )
        if form == "pcm16":
            return Audio(Bytes(pcm16_as_wav(decode_base64(data, where)), "the audio"))
        return Audio(data if data[:5].lower() == "data:" else f"data:;base64,{data}")


def decode_base64(data: str, where: str) -> bytes:
    """Bytes of a base64 text.

    Raises:
        ApiError: 400, it is none.
    """
    import base64
    import binascii

    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{where}: is not valid base64.", where) from None


def pcm16_as_wav(samples: bytes, rate: int = PCM_RATE) -> bytes:
    """Mono 16-bit samples with a WAV header."""
    return wav_header(len(samples), rate) + samples


def wav_header(size: int, rate: int) -> bytes:
    """The header of a WAV file of mono 16-bit samples.

    Args:
        size: bytes of the samples.
        rate: samples per second.
    """
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + struct.pack("<4sI", b"data", size)
    )


def conversation(turns: Sequence[tuple[str, list[Part]]]) -> tuple[Message, ...]:
    """Turns of OpenAI's roles as the template takes them.

    System messages at the start become the system text, joined. One that comes later is read as the user's, because the
    template has a system text at the start only. Turns without content are left out.

    Args:
        turns: role and parts.

    Raises:
        ApiError: 400, media in a system message.
    """
    rest = list(turns)
    texts: list[str] = []
    while rest and ROLES[rest[0][0]] == "system":
        _, parts = rest.pop(0)
        if not all(isinstance(part, Text) for part in parts):
            raise invalid("A system message may hold text only.", "messages")
        texts += [part.text for part in parts if isinstance(part, Text)]
    messages = [Message("system", (Text("\n\n".join(texts)),))] if texts else []
    for role, parts in rest:
        mapped = ROLES[role]
        if parts:
            messages.append(Message("user" if mapped == "system" else mapped, tuple(parts)))
    return tuple(messages)


def _string(item: Object, key: str, where: str) -> str:
    value = item.get(key)
    if isinstance(value, Mapping):  # the beta Assistants form {"value": "…"}
        value = value.get("value")
    if not isinstance(value, str):
        raise invalid(f"{where}.{key}: must be a string.", f"{where}.{key}")
    return value
