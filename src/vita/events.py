"""Events of an answer, and the whole answer that they add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

State = Literal["typed", "spoken", "noise"]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class TokenLogprob:
    """One generated token with its natural-log probability and its most likely alternatives."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True)
class Started:
    """The first event of an answer: its first token is known.

    Attributes:
        state: the response state: "typed" or "spoken" for an answer to a typed or spoken question, "noise" for audio
            that is not meant for the model; None where the model gave no response state token.
        index: which of the request's `n` answers.
    """

    state: State | None
    index: int = 0


@dataclass(frozen=True)
class TextDelta:
    """The next piece of the answer; whole UTF-8 characters only."""

    text: str
    index: int = 0


@dataclass(frozen=True)
class ReasoningDelta:
    """The next piece of the reasoning: what a model writes between `<think>` and `</think>` before it answers.

    It is no part of the answer's text: never spoken, not in a session's history, and no stop string is searched in it.
    Only checkpoints whose tokenizer has both as added tokens make it.
    """

    text: str
    index: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechChunk:
    """The next piece of the spoken answer.

    Attributes:
        samples: mono audio, [n] float32 in -1..1, 24,000 per second.
        text_start, text_end: the characters of the answer's text that it speaks. Within a clause they are estimated
            from the duration; the chunks of an answer follow one another without overlap.
        index: which of the request's `n` answers.
    """

    samples: NDArray[np.float32]
    text_start: int
    text_end: int
    index: int = 0


@dataclass(frozen=True)
class Usage:
    """What went in and came out, in tokens unless said otherwise.

    Attributes:
        prompt_tokens: of the whole prompt; text_tokens, image_tokens and audio_tokens are parts of it.
        completion_tokens: generated, those of the reasoning too.
        reasoning_tokens: of them, with the tokens around the reasoning.
        reused_tokens: of the prompt, found in the prefix cache.
        tiles: image tiles and video frames.
        images: images and video frames.
        audio_seconds: of audio in the prompt.
        dropped_messages: oldest messages, left out so that the rest fits the context.
    """

    prompt_tokens: int = 0
    text_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    reused_tokens: int = 0
    tiles: int = 0
    images: int = 0
    audio_seconds: float = 0.0
    dropped_messages: int = 0


@dataclass(frozen=True)
class Timings:
    """Where the time went, in seconds; memory in bytes. Stages count computing only; waiting is `queued`.

    Attributes:
        media: reading and decoding files.
        preprocess: cutting images into tiles, tokenising.
        load: encoders loaded on first use.
        queued: waiting for a media worker, for admission, and for other requests' units.
        vision, audio, prefill, decode: the stages of the model.
        first_token: from the request to the first token.
        speech: making audio of the answer, beside the other stages.
        first_audio: from the request to the first `SpeechChunk`.
        speech_seconds: of audio that was made.
        total: from the request to its end.
        decode_tokens: steps timed by `decode` (all tokens but those of prefill).
        bytes_per_token: weights and KV cache read for one decode step.
        peak_memory: resident set on a CPU, allocated device memory on a GPU.
        device: that computed.
        gpu_utilisation: percent, where NVML answers.
    """

    media: float = 0.0
    preprocess: float = 0.0
    load: float = 0.0
    queued: float = 0.0
    vision: float = 0.0
    audio: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    first_token: float = 0.0
    speech: float = 0.0
    first_audio: float = 0.0
    speech_seconds: float = 0.0
    total: float = 0.0
    decode_tokens: int = 0
    bytes_per_token: int = 0
    peak_memory: int = 0
    device: str = "cpu"
    gpu_utilisation: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Decode speed without the first token, which belongs to prefill."""
        return self.decode_tokens / self.decode if self.decode > 0 else 0.0

    @property
    def gigabytes_per_second(self) -> float:
        """Memory traffic of decode, to compare with the machine's bandwidth."""
        return self.tokens_per_second * self.bytes_per_token / 1e9


@dataclass(frozen=True)
class Done:
    """The last event of an answer.

    Attributes:
        token_ids: every generated token, those of the reasoning too.
        logprobs: of the tokens that are not the reasoning's, if they were asked for.
    """

    finish_reason: FinishReason
    state: State | None
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    notes: tuple[str, ...] = ()  # what the user should know: dropped turns, damaged media
    index: int = 0


def images_per_second(usage: Usage, timings: Timings) -> float | None:
    """Images and video frames of a request by its total time; None without any."""
    return usage.images / timings.total if usage.images and timings.total > 0 else None


Event: TypeAlias = Started | TextDelta | ReasoningDelta | SpeechChunk | Done


@dataclass(frozen=True)
class Result:
    """A whole answer.

    Attributes:
        text: what the user sees.
        token_ids: every generated token, those of the reasoning too.
        logprobs: of the tokens that are not the reasoning's, if they were asked for.
        reasoning: what the model wrote before it answered; empty if it did not reason.
    """

    text: str
    state: State | None
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    notes: tuple[str, ...] = ()
    reasoning: str = ""

    @property
    def reasoning_tokens(self) -> int:
        """Of the reasoning, with the tokens around it; part of `usage.completion_tokens`."""
        return self.usage.reasoning_tokens

    @property
    def images_per_second(self) -> float | None:
        """Images and video frames of the request by its total time; None without any."""
        return images_per_second(self.usage, self.timings)

    @classmethod
    def collect(cls, events: Iterable[Event], index: int = 0) -> Result:
        """Read a stream of events to its end: the answer of one index."""
        pieces: list[str] = []
        reasoning: list[str] = []
        result: Result | None = None
        for event in events:
            if event.index != index:
                continue
            if isinstance(event, TextDelta):
                pieces.append(event.text)
            elif isinstance(event, ReasoningDelta):
                reasoning.append(event.text)
            elif isinstance(event, Done):
                result = cls(
                    "".join(pieces), event.state, event.finish_reason, event.usage, event.timings,
                    event.token_ids, event.logprobs, event.notes, "".join(reasoning),
                )  # fmt: skip
        if result is None:
            raise RuntimeError("the event stream ended without Done")
        return result
