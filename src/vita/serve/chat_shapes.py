"""Chunks of a streamed chat completion."""

from __future__ import annotations

import json

from vita.serve.errors import JSON
from vita.serve.sse import data_event

MARK = "\0text\0"  # no model id and no answer's id holds it


def chunk_event(id: str, created: int, model: str, choices: list[JSON], more: dict[str, JSON]) -> bytes:
    """One chunk of a stream as a server-sent event."""
    return data_event(
        {"id": id, "object": "chat.completion.chunk", "created": created, "model": model, "choices": choices, **more}
    )


class TextChunk:
    """Makes the chunks of one answer's text: only the text differs, so only the text is encoded.

    Args:
        sample: an encoded chunk with `MARK` as its content.
    """

    def __init__(self, sample: bytes) -> None:
        self._before, self._after = sample.split(json.dumps(MARK).encode())

    def __call__(self, text: str) -> bytes:
        """The chunk of a piece of text, as a server-sent event."""
        return self._before + json.dumps(text).encode() + self._after


def choice(index: int, delta: dict[str, JSON], reason: str | None = None, logprobs: JSON = None) -> dict[str, JSON]:
    """One choice of a chunk."""
    return {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
