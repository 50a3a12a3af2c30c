"""Spoken answers of /v1/chat/completions: audio in the message, or in the deltas of a stream."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.requests import Request

from vita.events import Done, ReasoningDelta, SpeechChunk, TextDelta
from vita.serve.answers import check_ended, details
from vita.serve.audio_out import audio_tokens, encode_file
from vita.serve.auth import Tenant
from vita.serve.chat_objects import finish_reason, usage_object
from vita.serve.chat_shapes import choice, chunk_event
from vita.serve.chat_types import ChatRequest
from vita.serve.errors import JSON, invalid, unsupported
from vita.serve.server import Server, new_id
from vita.serve.sse import DELTA_SECONDS, DONE, cancelled_when_gone
from vita.speech.audio_file import to_int16

if TYPE_CHECKING:
    from vita.engine.handle import Handle

FORMATS = ("wav", "mp3", "flac", "opus", "aac", "pcm16")


def check_audio(request: ChatRequest) -> str:
    """The format of a spoken answer.

    Raises:
        ApiError: 400, a combination that is not spoken.
    """
    form = "wav" if request.audio is None else request.audio.format
    if form not in FORMATS:
        raise invalid(f"audio.format: must be one of {', '.join(FORMATS)}.", "audio.format")
    if request.stream and form != "pcm16":
        raise unsupported("audio.format", "streamed audio must be pcm16")
    if (request.n or 1) > 1:
        raise unsupported("n", "one spoken answer a request")
    if request.logprobs:
        raise unsupported("logprobs", "a spoken answer has none")
    return form


@dataclass
class SpokenAnswer:
    """One spoken answer, as OpenAI writes it.

    Args:
        server: of the request.
        tenant: who asked; nobody else may refer to the answer.
        handle: submitted with speech.
        id: "chatcmpl-…".
        form: of the audio.
    """

    server: Server
    tenant: Tenant
    handle: Handle
    id: str
    form: str

    def __post_init__(self) -> None:
        self._created = int(time.time())
        self._audio_id = new_id("audio_")

    async def complete(self, request: Request) -> dict[str, JSON]:
        """The answer in one object.

        Raises:
            ApiError, VitaError: the request failed, took too long, or was cancelled.
        """
        pieces: list[np.ndarray[Any, np.dtype[np.float32]]] = []
        text, reasoning, done = "", "", None
        async with cancelled_when_gone(request.receive, self.handle.cancel):
            async for event in self.handle.coalesced(DELTA_SECONDS):
                if isinstance(event, SpeechChunk):
                    pieces.append(event.samples)
                elif isinstance(event, TextDelta):
                    text += event.text
                elif isinstance(event, ReasoningDelta):
                    reasoning += event.text
                elif isinstance(event, Done):
                    done = event
        assert done is not None
        self._ended(done)
        samples = np.concatenate([np.zeros(0, np.float32), *pieces])
        data = await self.server.in_speech_thread(lambda: encode_file(samples, self.form))
        self.server.log_answered(text)
        audio: JSON = {
            "id": self._audio_id, "data": base64.b64encode(data).decode(), "transcript": text,
            "expires_at": self.server.transcripts.keep(self._audio_id, text, self.tenant),
        }  # fmt: skip
        message: dict[str, JSON] = {"role": "assistant", "content": None, "refusal": None, "audio": audio}
        if reasoning:
            message["reasoning_content"] = reasoning
        return {
            "id": self.id, "object": "chat.completion", "created": self._created, "model": self.server.model_id,
            "choices": [
                {"index": 0, "message": message, "finish_reason": finish_reason(done.finish_reason), "logprobs": None}
            ],
            "usage": spoken_usage(done, len(samples)),
            "vita": details(done.state, done.notes, done.timings),
        }  # fmt: skip

    async def stream(self, *, include_usage: bool) -> AsyncGenerator[bytes, None]:
        """Chunks as server-sent events: the audio's id, transcript and data as they come, when it expires."""
        more: dict[str, JSON] = {"usage": None} if include_usage else {}

        def chunk(delta: dict[str, JSON]) -> bytes:
            return self._chunk([choice(0, delta)], more)

        yield chunk({"role": "assistant", "content": ""})
        yield chunk({"audio": {"id": self._audio_id}})
        text, samples, done = "", 0, None
        async for event in self.handle.coalesced(DELTA_SECONDS):
            if isinstance(event, TextDelta):
                text += event.text
                yield chunk({"audio": {"transcript": event.text}})
            elif isinstance(event, ReasoningDelta):
                yield chunk({"reasoning_content": event.text})
            elif isinstance(event, SpeechChunk):
                samples += len(event.samples)
                data = base64.b64encode(to_int16(event.samples).tobytes()).decode()
                yield chunk({"audio": {"data": data}})
            elif isinstance(event, Done):
                done = event
        assert done is not None
        self._ended(done)
        self.server.log_answered(text)
        yield chunk({"audio": {"expires_at": self.server.transcripts.keep(self._audio_id, text, self.tenant)}})
        ending = choice(0, {}, finish_reason(done.finish_reason))
        yield self._chunk([ending], more | {"vita": details(done.state, done.notes, done.timings)})
        if include_usage:
            yield self._chunk([], {"usage": spoken_usage(done, samples)})
        yield DONE

    def _chunk(self, choices: list[JSON], more: dict[str, JSON]) -> bytes:
        return chunk_event(self.id, self._created, self.server.model_id, choices, more)

    def _ended(self, done: Done) -> None:
        check_ended(self.server, done)
        if done.timings.first_audio:
            self.server.metrics.first_audio(done.timings.first_audio)


def spoken_usage(done: Done, samples: int) -> dict[str, JSON]:
    """The usage object of an answer and so many samples of its speech."""
    usage = done.usage
    return usage_object(usage, usage.completion_tokens, usage.reasoning_tokens, audio_tokens(samples))
