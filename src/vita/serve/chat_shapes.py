"""Objects of chat completions that whole, streamed and spoken answers share."""

from __future__ import annotations

import json

from vita.events import FinishReason, Usage
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


def finish_reason(reason: FinishReason) -> str:
    """OpenAI's word for it."""
    return "length" if reason == "length" else "stop"


def usage_object(usage: Usage, completion: int, reasoning: int, audio_tokens: int = 0) -> dict[str, JSON]:
    """OpenAI's usage object of a chat completion.

    Args:
        usage: of the prompt.
        completion: tokens of all answers, with their reasoning.
        reasoning: tokens of their reasoning.
        audio_tokens: of their speech.
    """
    completion += audio_tokens
    return {
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": completion,
        "total_tokens": usage.prompt_tokens + completion,
        "prompt_tokens_details": {
            "cached_tokens": usage.reused_tokens, "audio_tokens": usage.audio_tokens,
            "image_tokens": usage.image_tokens, "text_tokens": usage.text_tokens, "cache_write_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning, "audio_tokens": audio_tokens,
            "text_tokens": completion - audio_tokens - reasoning,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    }  # fmt: skip
