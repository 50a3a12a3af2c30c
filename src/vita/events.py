"""Events of an answer and the whole answer that they add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

State = Literal["typed", "spoken", "noise"]


FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class TokenLogprob:
    """One generated token with its natural-log probability and its likeliest alternatives."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True)
class TextDelta:
    """The next piece of the answer; whole UTF-8 characters only."""

    text: str


@dataclass(frozen=True)
class Usage:
    """What went in and came out, in tokens unless said otherwise."""

    prompt_tokens: int = 0
    text_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0
    completion_tokens: int = 0
    reused_tokens: int = 0  # of the prompt, kept from an earlier answer of this conversation
    tiles: int = 0
    pictures: int = 0
    audio_seconds: float = 0.0
    dropped_messages: int = 0  # oldest messages left out so that the rest fits the context


@dataclass(frozen=True)
class Timings:
    """Where the time went, in seconds; memory in bytes."""

    media: float = 0.0  # reading and decoding files
    preprocess: float = 0.0  # tiling, filterbank, tokenising
    load: float = 0.0  # encoders loaded on first use
    vision: float = 0.0
    audio: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    first_token: float = 0.0  # from the request to the first token
    total: float = 0.0
    decode_tokens: int = 0  # steps timed by `decode` (all tokens but the first)
    bytes_per_token: int = 0  # weights and cache read for one decode step
    peak_memory: int = 0  # resident set on a CPU, allocated device memory on a GPU
    device: str = "cpu"
    gpu_utilisation: float | None = None  # percent, where NVML answers

    @property
    def tokens_per_second(self) -> float:
        """Decode speed, the first token (which belongs to prefill) left out."""
        return self.decode_tokens / self.decode if self.decode > 0 else 0.0

    @property
    def gigabytes_per_second(self) -> float:
        """Memory traffic of decode, to be held against the machine's bandwidth."""
        return self.tokens_per_second * self.bytes_per_token / 1e9

    @property
    def pictures_per_second(self) -> float | None:
        """Reciprocal of `total`, the seed's measure."""
        return 1.0 / self.total if self.total > 0 else None


@dataclass(frozen=True)
class Done:
    """The last event of an answer."""

    finish_reason: FinishReason
    state: State | None
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    notes: tuple[str, ...] = ()  # what the user should know: dropped turns, odd media


Event: TypeAlias = TextDelta | Done


@dataclass(frozen=True)
class Result:
    """A whole answer."""

    text: str
    state: State | None
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def collect(cls, events: Iterable[Event]) -> Result:
        """Drain a stream of events into one result."""
        pieces: list[str] = []
        for event in events:
            if isinstance(event, TextDelta):
                pieces.append(event.text)
            else:
                return cls(
                    "".join(pieces), event.state, event.finish_reason, event.usage, event.timings,
                    event.token_ids, event.logprobs, event.notes,
                )  # fmt: skip
        raise RuntimeError("the event stream ended without Done")
