"""Route /v1/responses: whole answers and streams of typed events; nothing is stored."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from vita.events import Done, Result, TextDelta, Usage
from vita.serve.answers import check_ended, details
from vita.serve.errors import JSON, as_api_error
from vita.serve.models import check_model
from vita.serve.responses_types import ResponsesRequest, check_responses, read_input, response_params
from vita.serve.server import Server, new_id, server_of, tenant_of
from vita.serve.sse import DELTA_SECONDS, EventStream, cancelled_when_gone, data_event

if TYPE_CHECKING:
    from vita.engine.handle import Handle

router = APIRouter()
Object = dict[str, JSON]


@router.post("/v1/responses")
async def create_response(request: Request, body: ResponsesRequest) -> Response:
    """Answer a conversation, with the newer API's shapes."""
    server = server_of(request)
    check_model(server, body.model)
    check_responses(body)
    messages = read_input(body, server.options.limits, allow_urls=server.allow_urls)
    server.log_asked(messages)
    handle = server.submit(messages, response_params(body, server.options.limits.tokens), tenant_of(request))
    answer = ResponseAnswer(server, handle, body)
    async with cancelled_when_gone(request.receive, handle.cancel):
        if not body.stream:
            return JSONResponse(await answer.complete())
        await handle.started()  # errors of media and length are answered with a status
    return EventStream(answer.stream(), handle.cancel)


@dataclass
class ResponseAnswer:
    """One answer, as the Responses API writes it.

    Args:
        server: of the request.
        handle: submitted.
        request: whose fields are echoed.
    """

    server: Server
    handle: Handle
    request: ResponsesRequest

    def __post_init__(self) -> None:
        self._id, self._item = new_id("resp_"), new_id("msg_")
        self._created = int(time.time())
        self._number = -1

    async def complete(self) -> Object:
        """The response object.

        Raises:
            ApiError, VitaError: the request failed, took too long, or was cancelled.
        """
        events = [event async for event in self.handle.coalesced(DELTA_SECONDS)]
        done = next(event for event in events if isinstance(event, Done))
        check_ended(self.server, done)
        text = Result.collect(events).text
        self.server.log_answered(text)
        return self._ended(text, done)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events, numbered from 0."""
        yield self._event("response.created", {"response": self._object("in_progress")})
        yield self._event("response.in_progress", {"response": self._object("in_progress")})
        place: Object = {"output_index": 0}
        part = place | {"item_id": self._item, "content_index": 0}
        yield self._event("response.output_item.added", place | {"item": self._message("in_progress", None)})
        yield self._event("response.content_part.added", part | {"part": text_part("")})
        pieces: list[str] = []
        try:
            async for event in self.handle.coalesced(DELTA_SECONDS):
                if isinstance(event, TextDelta):
                    pieces.append(event.text)
                    yield self._event("response.output_text.delta", part | {"delta": event.text, "logprobs": []})
                elif isinstance(event, Done):
                    check_ended(self.server, event)
                    done = event
        except Exception as error:
            failed = as_api_error(error)
            response = self._object("failed") | {"error": {"code": "server_error", "message": failed.message}}
            yield self._event("response.failed", {"response": response})
            return
        text = "".join(pieces)
        self.server.log_answered(text)
        response = self._ended(text, done)
        status = str(response["status"])
        yield self._event("response.output_text.done", part | {"text": text, "logprobs": []})
        yield self._event("response.content_part.done", part | {"part": text_part(text)})
        yield self._event("response.output_item.done", place | {"item": self._message(status, text)})
        yield self._event(f"response.{status}", {"response": response})

    def _event(self, kind: str, fields: Object) -> bytes:
        self._number += 1
        return data_event({"type": kind, "sequence_number": self._number, **fields}, kind)

    def _message(self, status: str, text: str | None) -> Object:
        content: list[JSON] = [] if text is None else [text_part(text)]
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": content}

    def _ended(self, text: str, done: Done) -> Object:
        complete = done.finish_reason != "length"
        status = "completed" if complete else "incomplete"
        return self._object(status) | {
            "output": [self._message(status, text)],
            "incomplete_details": None if complete else {"reason": "max_output_tokens"},
            "usage": usage_object(done.usage),
            "completed_at": int(time.time()),
            "vita": details(done.state, done.notes, done.timings),
        }

    def _object(self, status: str) -> Object:
        asked = self.request
        return {
            "id": self._id, "object": "response", "created_at": self._created, "status": status,
            "model": self.server.model_id, "output": [], "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "tool_choice": asked.tool_choice or "auto", "tools": asked.tools or [], "error": None,
            "incomplete_details": None, "instructions": asked.instructions, "metadata": asked.metadata or {},
            "max_output_tokens": asked.max_output_tokens, "temperature": asked.temperature or 0.0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p, "previous_response_id": None, "store": False,
            "reasoning": {"effort": None, "summary": None}, "text": {"format": {"type": "text"}},
            "truncation": "auto", "usage": None,
        }  # fmt: skip


def text_part(text: str) -> Object:
    """A piece of content."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def usage_object(usage: Usage) -> Object:
    """The Responses API's usage."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.reused_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }  # fmt: skip
