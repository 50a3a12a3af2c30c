"""Fields of /v1/chat/completions: types, and what of them is honoured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from vita.serve.errors import invalid, unsupported
from vita.types import MAX_REASONING_TOKENS, SamplingParams

MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16


class Fields(BaseModel):
    """Types are not converted; fields that OpenAI adds later are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())


class AudioReference(Fields):
    """An earlier spoken answer, by its id."""

    id: str


class ChatMessage(Fields):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[JsonValue] | None = None
    audio: AudioReference | None = None
    refusal: str | None = None
    tool_calls: list[JsonValue] | None = None


class StreamOptions(Fields):
    """What a stream holds besides the answer."""

    include_usage: bool | None = None


class ResponseFormat(Fields):
    """The form of the answer: text only."""

    type: str


class AudioOptions(Fields):
    """Voice and format of a spoken answer."""

    voice: JsonValue = None
    format: str = "wav"


class ChatRequest(Fields):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    modalities: list[str] | None = None
    audio: AudioOptions | None = None
    response_format: ResponseFormat | None = None
    tools: list[JsonValue] | None = None
    tool_choice: JsonValue = None
    functions: list[JsonValue] | None = None
    function_call: JsonValue = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    prediction: JsonValue = None
    web_search_options: JsonValue = None

    @property
    def wants_audio(self) -> bool:
        """Whether the answer is spoken."""
        return "audio" in (self.modalities or ())


# Fields that are not honoured, and their values that are accepted. "none" forbids the reasoning.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "reasoning_effort": ("none", "minimal"),
    "verbosity": ("medium",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "prediction": (),
    "web_search_options": (),
}


def check_supported(request: ChatRequest) -> None:
    """Refuse what cannot be honoured.

    Raises:
        ApiError: 400 `unsupported_parameter`, naming the field.
    """
    for name, neutral in NEUTRAL.items():
        value = getattr(request, name)
        if value is not None and value not in neutral:
            raise unsupported(name, f"{str(value)[:60]!r} is not supported by this server")
    if request.response_format is not None and request.response_format.type != "text":
        raise unsupported("response_format", "only text is supported by this server")
    for modality in request.modalities or ():
        if modality not in ("text", "audio"):
            raise unsupported("modalities", f"{modality[:60]!r} is not supported by this server")
    if request.modalities == []:
        raise invalid("modalities: must name text, audio, or both.", "modalities")
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs: needs logprobs to be true.", "top_logprobs")


def sampling_params(request: ChatRequest, default_tokens: int) -> SamplingParams:
    """How tokens are chosen. Fields that are left out are the engine's defaults: greedy.

    Args:
        request: checked by `check_supported`.
        default_tokens: of an answer, if the request names no limit.

    Raises:
        ApiError: 400, a stop sequence or bias that cannot be used.
    """
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > MAX_STOPS:
        raise invalid(f"stop: may hold {MAX_STOPS} sequences at most.", "stop")
    asked = request.max_completion_tokens or request.max_tokens
    top_p = 1.0 if request.top_p is None else max(request.top_p, 1e-9)  # 0 is the most probable token alone
    return SamplingParams(
        max_reasoning_tokens=reasoning_limit(request.reasoning_effort), max_tokens=asked or default_tokens,
        temperature=request.temperature or 0.0, top_p=top_p,
        top_k=max(0, request.top_k or 0), min_p=request.min_p or 0.0, repetition_penalty=request.repetition_penalty,
        seed=request.seed, stop=tuple(stops), logprobs=max(1, request.top_logprobs or 0) if request.logprobs else 0,
        n=request.n or 1, frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0, logit_bias=_bias(request.logit_bias or {}),
    )  # fmt: skip


def reasoning_limit(effort: object) -> int:
    """Most tokens of reasoning for an effort that was accepted."""
    return 0 if effort == "none" else MAX_REASONING_TOKENS


def _bias(biases: dict[str, float]) -> dict[int, float]:
    if not all(token.isascii() and token.isdigit() and len(token) < 10 for token in biases):
        raise invalid("logit_bias: its keys must be token ids.", "logit_bias")
    return {int(token): value for token, value in biases.items()}
