"""Route /v1/audio/speech: text to a stream of audio bytes, or of events."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field, JsonValue
from starlette.responses import Response

from vita.events import SpeechChunk
from vita.serve.audio_out import MEDIA_TYPES, StreamEncoder, audio_tokens, chunks_of
from vita.serve.chat_types import Fields
from vita.serve.errors import JSON, unsupported
from vita.serve.server import Server, server_of
from vita.serve.sse import EventStream, cancelled_when_gone, data_event
from vita.serve.voices import speech_options

router = APIRouter()
MAX_INPUT = 4096  # characters


class SpeechRequest(Fields):
    """The body of /v1/audio/speech."""

    input: Annotated[str, Field(min_length=1, max_length=MAX_INPUT)]
    model: str | None = None
    voice: JsonValue = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = None
    speed: float | None = None
    instructions: str | None = None
    stream_format: Literal["audio", "sse"] | None = None


@router.post("/v1/audio/speech")
async def create_speech(request: Request, body: SpeechRequest) -> Response:
    """Speak a text."""
    server = server_of(request)
    if body.instructions:
        raise unsupported("instructions", "the voices take no instructions")
    options = speech_options(server, body.voice, 1.0 if body.speed is None else body.speed)
    server.log_spoken(body.input)
    stream = await server.in_speech_thread(
        lambda: server.model.speak(body.input, voice=options.voice, speed=options.speed)
    )
    form = body.response_format or "mp3"
    chunks = chunks_of(stream, server.speech_threads)
    began = time.monotonic()
    async with cancelled_when_gone(request.receive, stream.cancel):
        first = await anext(chunks, None)  # errors of the voice are answered with a status
    server.metrics.first_audio(time.monotonic() - began)
    every = _from_first(first, chunks)
    if body.stream_format == "sse":
        return EventStream(_events(every, form, body.input, server), stream.cancel)
    return EventStream(_bytes(every, form), stream.cancel, MEDIA_TYPES[form])


async def _from_first(
    first: SpeechChunk | None, rest: AsyncGenerator[SpeechChunk, None]
) -> AsyncGenerator[SpeechChunk, None]:
    try:
        if first is not None:
            yield first
        async for chunk in rest:
            yield chunk
    finally:
        await rest.aclose()


async def _bytes(chunks: AsyncGenerator[SpeechChunk, None], form: str) -> AsyncGenerator[bytes, None]:
    encoder = StreamEncoder(form)
    try:
        async for chunk in chunks:
            if data := encoder.add(chunk.samples):
                yield data
        if data := encoder.finish():
            yield data
    finally:
        await chunks.aclose()


async def _events(
    chunks: AsyncGenerator[SpeechChunk, None], form: str, text: str, server: Server
) -> AsyncGenerator[bytes, None]:
    samples = 0

    async def counted() -> AsyncIterator[SpeechChunk]:
        nonlocal samples
        async for chunk in chunks:
            samples += len(chunk.samples)
            yield chunk

    encoder = StreamEncoder(form)
    try:
        async for chunk in counted():
            if data := encoder.add(chunk.samples):
                yield _delta(data)
        if data := encoder.finish():
            yield _delta(data)
    finally:
        await chunks.aclose()
    heard, made = len(server.model.engine.model.tokenizer.encode(text)), audio_tokens(samples)
    usage: JSON = {"input_tokens": heard, "output_tokens": made, "total_tokens": heard + made}
    yield data_event({"type": "speech.audio.done", "usage": usage})


def _delta(data: bytes) -> bytes:
    return data_event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
