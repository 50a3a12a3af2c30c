"""Fields of /v1/responses: types, and what of them is honoured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, JsonValue

from vita.serve.chat_types import Fields, reasoning_limit
from vita.serve.errors import invalid, unsupported
from vita.serve.options import Limits
from vita.serve.parts import ROLES, Reader, conversation
from vita.types import Message, Part, SamplingParams, Text

# Fields that are not honoured, and their values that change nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "previous_response_id": (),
    "conversation": (),
    "prompt": (),
    "background": (False,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "tool_choice": ("none", "auto"),
    "truncation": ("auto", "disabled"),
    "top_logprobs": (0,),
}
IGNORED_ITEMS = ("reasoning",)


class ResponsesRequest(Fields):
    """The body of /v1/responses."""

    input: str | list[JsonValue]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stream: bool | None = None
    metadata: dict[str, str] | None = None
    text: dict[str, JsonValue] | None = None
    tools: list[JsonValue] | None = None
    tool_choice: JsonValue = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, JsonValue] | None = None
    previous_response_id: str | None = None
    conversation: JsonValue = None
    prompt: JsonValue = None
    background: bool | None = None
    store: bool | None = None
    service_tier: str | None = None
    truncation: str | None = None
    top_logprobs: int | None = None


def check_responses(request: ResponsesRequest) -> None:
    """Refuse what cannot be honoured.

    Raises:
        ApiError: 400 `unsupported_parameter`, naming the field.
    """
    for name, neutral in NEUTRAL.items():
        value = getattr(request, name)
        if value is not None and value not in neutral:
            raise unsupported(name, f"{str(value)[:60]!r} is not supported by this server")
    form = (request.text or {}).get("format")
    if isinstance(form, Mapping) and form.get("type", "text") != "text":
        raise unsupported("text.format", "only text is supported by this server")
    effort = (request.reasoning or {}).get("effort")
    if effort not in (None, "none", "minimal"):
        raise unsupported("reasoning.effort", f"{str(effort)[:60]!r} is not supported by this server")


def response_params(request: ResponsesRequest, default_tokens: int) -> SamplingParams:
    """How tokens are chosen."""
    return SamplingParams(
        max_reasoning_tokens=reasoning_limit((request.reasoning or {}).get("effort")),
        max_tokens=request.max_output_tokens or default_tokens, temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else max(request.top_p, 1e-9),
    )  # fmt: skip


def read_input(request: ResponsesRequest, limits: Limits, *, allow_urls: bool) -> tuple[Message, ...]:
    """The conversation of a request.

    Raises:
        ApiError: 400, naming the field.
    """
    reader = Reader(limits, allow_urls=allow_urls)
    turns: list[tuple[str, list[Part]]] = []
    if request.instructions:
        turns.append(("system", [reader.text(request.instructions, "instructions")]))
    if isinstance(request.input, str):
        turns.append(("user", [reader.text(request.input, "input")]))
        return conversation(turns)
    if len(request.input) > limits.messages:
        raise invalid(f"A request may hold {limits.messages} messages at most.", "input")
    for n, item in enumerate(request.input):
        where = f"input[{n}]"
        if not isinstance(item, Mapping):
            raise invalid(f"{where}: must be an object.", where)
        kind = item.get("type", "message")
        if kind in IGNORED_ITEMS:
            continue
        if kind == "function_call_output":
            output = item.get("output")
            turns.append(("user", [Text(output)] if isinstance(output, str) and output else []))
            continue
        if kind != "message":
            raise unsupported(f"{where}.type", f"{str(kind)[:60]!r} is not supported by this server")
        role = item.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise invalid(f"{where}.role: must be system, developer, user or assistant.", f"{where}.role")
        turns.append((role, reader.content(item.get("content"), f"{where}.content")))
    return conversation(turns)
