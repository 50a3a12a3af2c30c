"""Route /v1/audio/transcriptions: multipart uploads and JSON bodies, whole transcripts and streams."""

from __future__ import annotations

import asyncio
import json
import math
import zlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import cast

from fastapi import APIRouter, Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from vita.events import Done, Usage
from vita.serve.answers import logprob_object, shown_tokens
from vita.serve.auth import Tenant
from vita.serve.body import media_type
from vita.serve.errors import JSON, ApiError, invalid, unsupported
from vita.serve.parts import Object, Reader
from vita.serve.server import Server, server_of, tenant_of
from vita.serve.sse import EventStream, cancelled_when_gone, data_event
from vita.serve.transcribe import (
    LONG_SECONDS,
    SAMPLE_RATE,
    Samples,
    Segment,
    Transcript,
    find_segments,
    read_recording,
    segment_audio,
    submit_transcription,
    transcribe,
    transcript_deltas,
    transcript_tokens,
)
from vita.sources import Bytes
from vita.types import Audio

router = APIRouter()
FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
LISTS = ("languages", "keywords", "timestamp_granularities", "include")
MAX_FIELDS = 100
UNDETERMINED = "und"  # ISO 639: the model does not say which language it heard
BODY = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object", "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "model": {"type": "string"}, "language": {"type": "string"}, "prompt": {"type": "string"},
                        "response_format": {"type": "string", "enum": list(FORMATS)},
                        "temperature": {"type": "number"}, "stream": {"type": "boolean"},
                    },
                }
            }
        }
    }
}  # fmt: skip


@dataclass(frozen=True)
class TranscriptionRequest:
    """A recording, and how it is written down."""

    audio: Audio
    response_format: str = "json"
    language: str | None = None
    temperature: float = 0.0
    stream: bool = False
    logprobs: bool = False
    cut: bool = False  # by voice activity


@router.post("/v1/audio/transcriptions", openapi_extra=BODY)
async def create_transcription(request: Request) -> Response:
    """Write down what is said in a recording."""
    server, tenant = server_of(request), tenant_of(request)
    if media_type(request.headers.raw) == "application/json":  # as the limits of bodies are chosen
        asked = _from_json(await _json(request), server)
    else:
        asked = await _from_form(request)
    gone: list[bool] = []
    async with cancelled_when_gone(request.receive, lambda: gone.append(True)):
        samples = await asyncio.to_thread(read_recording, server, asked.audio, gone)
        job = Transcription(server, tenant, asked, samples, gone)
        await job.find_segments()
        if not asked.stream:
            return await job.complete()
    return EventStream(job.stream(), lambda: gone.append(True))


class Transcription:
    """One recording on its way to text.

    Args:
        server: of the request.
        tenant: who sent it.
        asked: the request.
        samples: float32 `[n]` at 16 kHz.
        gone: not empty once the client is gone.
    """

    def __init__(
        self, server: Server, tenant: Tenant, asked: TranscriptionRequest, samples: Samples, gone: list[bool]
    ) -> None:
        self._server, self._tenant, self._asked, self._gone = server, tenant, asked, gone
        self._samples, self._seconds = samples, len(samples) / SAMPLE_RATE
        self._segments: list[Segment] = []

    async def find_segments(self) -> None:
        """Cut the recording where nobody speaks, if times are asked for or it is long; of silence nothing is left.

        Raises:
            ApiError: 400, subtitles are asked for and there is no voice activity detector to give times.
        """
        asked, vad = self._asked, self._server.vad
        if vad is None and asked.response_format in ("srt", "vtt"):
            raise unsupported("response_format", "subtitles need times, and no voice activity detector is installed")
        timed = asked.response_format not in ("json", "text")
        cut = timed or asked.cut or self._seconds > LONG_SECONDS
        self._segments = await asyncio.to_thread(find_segments, self._samples, vad, cut=cut)

    async def complete(self) -> Response:
        """The response of a request without `stream`.

        Raises:
            ApiError, VitaError: a segment failed, took too long, or was cancelled.
        """
        found = []
        for segment in self._segments:
            handle = submit_transcription(
                self._server, segment_audio(segment), self._tenant, temperature=self._asked.temperature,
                logprobs=self._asked.logprobs or self._asked.response_format == "verbose_json",
            )  # fmt: skip
            self._check_gone()
            found.append(await transcribe(self._server, handle))
        self._server.log_answered(*(one.text for one in found))
        return self._response(found)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events."""
        usages: list[Usage] = []
        text = ""
        for segment in self._segments:
            self._check_gone()
            handle = submit_transcription(self._server, segment_audio(segment), self._tenant)
            ended: list[Done] = []
            try:
                space = " " if text and not text.endswith(" ") else ""
                async for piece in transcript_deltas(self._server, handle, ended):
                    text += space + piece
                    yield data_event({"type": "transcript.text.delta", "delta": space + piece})
                    space = ""
            finally:
                handle.cancel()
            usages.append(ended[0].usage)
        self._server.log_answered(text)
        yield data_event({"type": "transcript.text.done", "text": text, "usage": usage_object(usages)})

    def _check_gone(self) -> None:
        if self._gone:
            raise ApiError(400, "The client closed the connection.")

    def _response(self, found: list[Transcript]) -> Response:
        form = self._asked.response_format
        text = " ".join(one.text for one in found if one.text)
        if form == "text":
            return PlainTextResponse(text + "\n")
        if form in ("srt", "vtt"):
            return PlainTextResponse(subtitles(self._segments, found, form))
        if form == "verbose_json":
            return JSONResponse(self._verbose(text, found))
        body: dict[str, JSON] = {"text": text, "usage": usage_object([one.usage for one in found])}
        if self._asked.logprobs:
            model = self._server.model.engine.model
            body["logprobs"] = [
                logprob_object(model, token.id, token.text, token.logprob)
                for one in found
                for token in transcript_tokens(shown_tokens(one.logprobs, model))
            ]
        return JSONResponse(body)

    def _verbose(self, text: str, found: list[Transcript]) -> dict[str, JSON]:
        found_pairs = list(zip(self._segments, found, strict=True))
        segments: list[JSON] = [
            segment_object(n, segment, one, self._asked.temperature)
            for n, (segment, one) in enumerate(pair for pair in found_pairs if pair[1].text)
        ]
        return {
            "task": "transcribe", "language": self._asked.language or UNDETERMINED, "duration": self._seconds,
            "text": text, "segments": segments,
            "usage": {"type": "duration", "seconds": math.ceil(self._seconds)},
        }  # fmt: skip


def segment_object(number: int, segment: Segment, transcript: Transcript, temperature: float) -> dict[str, JSON]:
    """A segment as OpenAI writes it; without a detector of speech it has no `no_speech_prob`."""
    text = transcript.text.encode()
    logprobs = [token.logprob for token in transcript.logprobs]
    found: dict[str, JSON] = {
        "id": number, "seek": 0, "start": segment.start, "end": segment.end, "text": transcript.text,
        "tokens": list(transcript.token_ids), "temperature": temperature,
        "avg_logprob": sum(logprobs) / len(logprobs) if logprobs else 0.0,
        "compression_ratio": len(text) / len(zlib.compress(text)),
    }  # fmt: skip
    return found if segment.speech is None else found | {"no_speech_prob": 1 - segment.speech}


def usage_object(usages: list[Usage]) -> dict[str, JSON]:
    """OpenAI's usage of a transcription in tokens."""
    audio, text = sum(u.audio_tokens for u in usages), sum(u.text_tokens for u in usages)
    output = sum(u.completion_tokens for u in usages)
    return {
        "type": "tokens", "input_tokens": audio + text, "output_tokens": output, "total_tokens": audio + text + output,
        "input_token_details": {"audio_tokens": audio, "text_tokens": text},
    }  # fmt: skip


def subtitles(segments: list[Segment], found: list[Transcript], form: str) -> str:
    """SubRip or WebVTT."""
    blocks = ["WEBVTT\n"] if form == "vtt" else []
    point = "." if form == "vtt" else ","
    spoken = [(segment, one) for segment, one in zip(segments, found, strict=True) if one.text]
    for n, (segment, one) in enumerate(spoken, start=1):
        times = f"{_clock(segment.start, point)} --> {_clock(segment.end, point)}\n{one.text}\n"
        blocks.append(times if form == "vtt" else f"{n}\n{times}")
    return "\n".join(blocks)


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


async def _json(request: Request) -> Object:
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise invalid("The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise invalid("The body must be a JSON object.")
    return body


def _from_json(body: Object, server: Server) -> TranscriptionRequest:
    """Open WebUI's form: `input_audio` with data and format."""
    part = Reader(server.options.limits, allow_urls=False).part({**body, "type": "input_audio"}, "body")
    assert isinstance(part, Audio)
    return _checked(part, body)


async def _from_form(request: Request) -> TranscriptionRequest:
    try:
        form = await request.form(max_files=1, max_fields=MAX_FIELDS)
    except MultiPartException as error:
        raise invalid(f"The form cannot be read: {error.message}") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise invalid("file: must be an audio file, sent as multipart/form-data.", "file")
        return _checked(Audio(Bytes(await file.read(), "the file")), _fields(form))
    finally:
        await form.close()  # deletes its temporary files


def _fields(form: FormData) -> Object:
    """The form's texts; of a repeated field ("include[]") a list."""
    fields: dict[str, JSON] = {}
    for key in form:
        values = [value for value in form.getlist(key) if isinstance(value, str)]
        name = key.removesuffix("[]")
        if values:
            fields[name] = cast(JSON, values) if name in LISTS else values[-1]
    return fields


def _checked(audio: Audio, fields: Mapping[str, JSON]) -> TranscriptionRequest:
    """The request, without what cannot be honoured.

    Raises:
        ApiError: 400, naming the field.
    """
    form = fields.get("response_format") or "json"
    if form not in FORMATS:
        raise unsupported("response_format", f"{str(form)[:40]!r} is not supported by this server")
    for granularity in _texts(fields, "timestamp_granularities"):
        if granularity != "segment":
            raise unsupported("timestamp_granularities", "the model gives no times of words")
    include = _texts(fields, "include")
    if set(include) - {"logprobs"}:
        raise unsupported("include", "only logprobs is supported by this server")
    stream = fields.get("stream") in (True, "true", "True", "1")
    if stream and form not in ("json", "text"):
        raise invalid("stream: goes with the response formats json and text only.", "stream")
    language = fields.get("language")
    return TranscriptionRequest(
        audio, str(form), str(language)[:16] if language else None, _temperature(fields.get("temperature")), stream,
        "logprobs" in include, bool(fields.get("chunking_strategy")),
    )  # fmt: skip


def _texts(fields: Mapping[str, JSON], name: str) -> list[str]:
    value = fields.get(name) or []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise invalid(f"{name}: must be a list.", name)
    return [str(item) for item in value]


def _temperature(value: JSON) -> float:
    try:
        found = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        found = math.nan
    if not 0 <= found <= 2:
        raise invalid("temperature: must be a number between 0 and 2.", "temperature")
    return found
