"""Which replica a request belongs to: a routing key, and consistent hashing of it."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Mapping, Sequence

SESSION_HEADER = "x-session-id"
SESSION_FIELDS = ("prompt_cache_key", "session_id")  # of a JSON body
MEDIA_KEYS = ("image_url", "video_url", "input_video", "video", "audio_url", "input_audio")
POINTS = 64  # on the ring, of each replica

Headers = Mapping[str, str]  # names in lower case


class Ring:
    """Consistent hashing: a replica that is away changes the place of its own keys alone.

    Args:
        count: replicas, 1 or more.
    """

    def __init__(self, count: int) -> None:
        points = sorted(
            (_hash(f"{index}/{point}".encode()), index) for index in range(count) for point in range(POINTS)
        )
        self._points = [point for point, _ in points]
        self._indices = [index for _, index in points]
        self._count = count

    def order(self, key: bytes) -> list[int]:
        """All replicas, the preferred one first."""
        start = bisect.bisect(self._points, _hash(key))
        around = self._indices[start:] + self._indices[:start]
        return list(dict.fromkeys(around))


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def routing_key(headers: Headers, fields: Mapping[str, object] | None) -> bytes | None:
    """What keeps the requests of one conversation, or about one image, at one replica.

    The first of these that the request has: a session id (header `x-session-id`, or the field `prompt_cache_key`); its
    first image, video or audio clip; the beginning of its conversation, up to the first message of the user.

    Args:
        headers: of the request.
        fields: its JSON body; None if it has none.

    Returns:
        A key, or None for a request that any replica may answer.
    """
    session = headers.get(SESSION_HEADER)
    if session:
        return b"session " + session.encode(errors="replace")
    if fields is None:
        return None
    for name in SESSION_FIELDS:
        value = fields.get(name)
        if isinstance(value, str) and value:
            return b"session " + value.encode(errors="replace")
    messages = fields.get("messages", fields.get("input"))
    if isinstance(messages, str):
        return b"text " + messages.encode(errors="replace")
    if not isinstance(messages, list):
        return None
    media = _first_media(messages)
    return b"media " + media.encode(errors="replace") if media is not None else b"text " + _beginning(messages)


def _first_media(messages: Sequence[object]) -> str | None:
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            found = _media(part)
            if found is not None:
                return found
    return None


def _media(part: object) -> str | None:
    """The URL or base64 text of a media part."""
    if not isinstance(part, dict):
        return None
    for name in MEDIA_KEYS:
        value = part.get(name)
        if isinstance(value, dict):
            value = value.get("url", value.get("data"))
        if isinstance(value, str) and value:
            return value
    return None


def _beginning(messages: Sequence[object]) -> bytes:
    taken: list[object] = []
    for message in messages:
        taken.append(message)
        if isinstance(message, dict) and message.get("role") == "user":
            break
    return json.dumps(taken, sort_keys=True).encode()


def parse_object(body: bytes) -> dict[str, object] | None:
    """The JSON object of a body; None if it is none, which a replica will say."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
