"""Route /v1/chat/completions: whole answers and streams."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from vita.events import Done, ReasoningDelta, Result, TextDelta, TokenLogprob
from vita.serve.answers import check_ended, details
from vita.serve.auth import Tenant
from vita.serve.chat_audio import SpokenAnswer, check_audio
from vita.serve.chat_messages import read_chat
from vita.serve.chat_objects import completion_object, finish_reason, logprobs_object, usage_object
from vita.serve.chat_shapes import MARK, TextChunk, choice, chunk_event
from vita.serve.chat_types import ChatMessage, ChatRequest, check_supported, sampling_params
from vita.serve.errors import JSON
from vita.serve.models import check_model
from vita.serve.parts import Reader
from vita.serve.server import Server, new_id, server_of, tenant_of
from vita.serve.sse import DELTA_SECONDS, DONE, EventStream, cancelled_when_gone
from vita.serve.voices import speech_options
from vita.types import Message

if TYPE_CHECKING:
    from vita.engine.handle import Handle

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation."""
    server = server_of(request)
    check_model(server, body.model)
    check_supported(body)
    tenant, form = tenant_of(request), check_audio(body) if body.wants_audio else None
    messages = read_messages(body.messages, server, tenant)
    params = sampling_params(body, server.options.limits.tokens)
    server.log_asked(messages)
    answer: Answer | SpokenAnswer
    if form is None:
        handle = server.submit(messages, params, tenant)
        top = (body.top_logprobs or 0) if body.logprobs else None
        answer = Answer(server, handle, new_id("chatcmpl-"), params.n, top)
    else:
        voice = speech_options(server, None if body.audio is None else body.audio.voice, param="audio.voice")
        handle = await server.in_speech_thread(lambda: server.submit(messages, params, tenant, speech=voice))
        answer = SpokenAnswer(server, tenant, handle, new_id("chatcmpl-"), form)
    if not body.stream:
        return JSONResponse(await answer.complete(request))
    async with cancelled_when_gone(request.receive, handle.cancel):
        await handle.started()  # errors of media and length are answered with a status
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    return EventStream(answer.stream(include_usage=usage), handle.cancel)


def read_messages(messages: Sequence[ChatMessage], server: Server, tenant: Tenant) -> tuple[Message, ...]:
    """OpenAI's messages as `vita.Message`s.

    Raises:
        ApiError: 400, naming the field.
    """
    reader = Reader(server.options.limits, allow_urls=server.allow_urls)
    return read_chat(messages, reader, lambda id, where: server.transcripts.find(id, tenant, where))


@dataclass
class Answer:
    """The answers of one request, as OpenAI writes them.

    Args:
        server: of the request.
        handle: submitted.
        id: "chatcmpl-…".
        count: answers.
        top_logprobs: alternatives that were asked for; None: no log-probabilities.
    """

    server: Server
    handle: Handle
    id: str
    count: int
    top_logprobs: int | None

    def __post_init__(self) -> None:
        self._created = int(time.time())

    async def complete(self, request: Request) -> dict[str, JSON]:
        """All answers in one object.

        Raises:
            ApiError, VitaError: the request failed, took too long, or was cancelled.
        """
        async with cancelled_when_gone(request.receive, self.handle.cancel):
            events = [event async for event in self.handle.coalesced(DELTA_SECONDS)]
        results = [Result.collect(events, index) for index in range(self.count)]
        for event in events:
            if isinstance(event, Done):
                check_ended(self.server, event)
        self.server.log_answered(*(result.text for result in results))
        return completion_object(
            results, self.server.model.engine.model, id=self.id, created=self._created, name=self.server.model_id,
            top_logprobs=self.top_logprobs,
        )  # fmt: skip

    async def stream(self, *, include_usage: bool) -> AsyncGenerator[bytes, None]:
        """Chunks as server-sent events."""
        usage: dict[str, JSON] = {"usage": None} if include_usage else {}
        completion, reasoning, last = 0, 0, None
        text_chunks = [TextChunk(self._chunk([choice(n, {"content": MARK})], usage)) for n in range(self.count)]
        begun = [False] * self.count
        async for event in self.handle.coalesced(DELTA_SECONDS):
            index = event.index
            if not begun[index]:
                begun[index] = True
                yield self._chunk([choice(index, {"role": "assistant", "content": ""})], usage)
            if isinstance(event, TextDelta):
                yield text_chunks[index](event.text)
            elif isinstance(event, ReasoningDelta):
                yield self._chunk([choice(index, {"reasoning_content": event.text})], usage)
            elif isinstance(event, Done):
                check_ended(self.server, event)
                completion, last = completion + event.usage.completion_tokens, event
                reasoning += event.usage.reasoning_tokens
                ending = choice(index, {}, finish_reason(event.finish_reason), self._logprobs(event.logprobs))
                yield self._chunk([ending], usage | {"vita": details(event.state, event.notes, event.timings)})
        if include_usage and last is not None:
            yield self._chunk([], {"usage": usage_object(last.usage, completion, reasoning)})
        yield DONE

    def _chunk(self, choices: list[JSON], more: dict[str, JSON]) -> bytes:
        return chunk_event(self.id, self._created, self.server.model_id, choices, more)

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> JSON:
        if self.top_logprobs is None:
            return None
        return logprobs_object(self.server.model.engine.model, tokens, self.top_logprobs)
