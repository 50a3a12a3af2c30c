"""Requests and sequences: the state that the scheduler moves from submission to the last token.

A request is read, admitted, encoded and prefilled once. Then each of its `n` answers is a sequence that decodes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vita.engine.handle import EventQueue
from vita.engine.prefix_cache import Atom
from vita.events import FinishReason, ReasoningDelta, TextDelta, TokenLogprob, Usage
from vita.prompt.processor import ProcessedInputs, prompt_usage
from vita.runtime.clock import Stopwatch
from vita.types import MediaSpan, SamplingParams, Span

if TYPE_CHECKING:
    from torch import Tensor

    from vita.engine.sampler import SamplingState
    from vita.model.kv_cache import KVCache
    from vita.prompt.answer_text import AnswerText, Pieces


class Phase(enum.Enum):
    """Where a request stands."""

    READING = "reading"  # its media are read by a worker
    WAITING = "waiting"  # for room in the KV pool
    ENCODING = "encoding"  # images and audio to rows
    PREFILLING = "prefilling"
    RUNNING = "running"  # its sequences decode
    FINISHED = "finished"


@dataclass(frozen=True)
class Token:
    """One generated id, with its log-probability and alternatives if asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Request:
    """One submitted request.

    Attributes:
        params: how tokens are chosen.
        events: what its handle reads.
        salt: see `PrefixCache`.
        session: number of the session whose prefix is pinned; None: no session.
        priority: lower values are served first.
        arrived: when it was submitted, by the engine's clock.
        served: when its last unit ended, or when it was admitted.
        deadline: when it is cancelled, by the engine's clock; None: never.
        alone: shares no unit with other requests, since one that it shared failed.
        on_end: told the finished request, in the engine thread; a session keeps its history by it.
        error: what it failed with, if it did.
        draft: token id that is prefilled behind the prompt as if it had been sampled; None: no draft. See
            `choose_draft`.
        ended: whether it has left the engine; guarded by the engine's lock, like `then`.
        then: start what waits for its end: reading the next turn of its session.
    """

    params: SamplingParams
    events: EventQueue
    salt: str = ""
    session: int | None = None
    priority: int = 0
    arrived: float = 0.0
    served: float = 0.0
    deadline: float | None = None
    on_end: Callable[[Request], None] | None = None
    alone: bool = False
    watch: Stopwatch = field(default_factory=Stopwatch)
    phase: Phase = Phase.READING
    cancelled: bool = False  # set from any thread; the scheduler acts on it
    error: BaseException | None = None
    ended: bool = False
    then: list[Callable[[], None]] = field(default_factory=list)
    inputs: ProcessedInputs | None = None
    draft: int | None = None
    atoms: tuple[Atom, ...] = ()
    capacity: int = 0  # positions reserved for each of its sequences
    limit: int = 0  # most visible tokens of each answer
    most: int = 0  # most tokens of each, with its reasoning
    cache: KVCache | None = None  # while prefilling; then its sequences' own
    reserved: int = 0  # bytes of the KV pool for its further answers, until they have slabs
    reused: int = 0  # positions found in the prefix cache
    spans: list[Span] = field(default_factory=list)  # of the prompt and the draft, behind what is reused
    features: dict[bytes, Tensor] = field(default_factory=dict)  # rows of its media by digest
    embeds: Tensor | None = None  # [rows behind what is reused, H]
    done_rows: int = 0  # of `embeds` that are prefilled
    sequences: list[Sequence] = field(default_factory=list)
    used: Usage | None = None  # once it has ended

    @property
    def pending_media(self) -> list[MediaSpan]:
        """Spans that an encoder still has to fill, each content once."""
        spans = {s.digest: s for s in self.spans if isinstance(s, MediaSpan) and s.digest not in self.features}
        return list(spans.values())

    def usage_so_far(self) -> Usage:
        """What it has used; called from any thread, while the engine goes on counting or after the end."""
        inputs, sequences = self.inputs, self.sequences
        if self.used is not None:  # asked behind both, which are given up once it is set
            return self.used
        if inputs is None:
            return Usage()
        count = sum(len(sequence.tokens) for sequence in sequences)
        reasoning = sum(sequence.text.reasoning_tokens for sequence in sequences)
        return prompt_usage(inputs, reused=self.reused, completion=count, reasoning=reasoning)

    @property
    def remaining_rows(self) -> int:
        """Rows that are not prefilled yet."""
        return sum(span.rows for span in self.spans) - self.done_rows


@dataclass(eq=False)
class Sequence:
    """One answer that is being decoded.

    Attributes:
        request: it belongs to.
        index: among the request's answers.
        slab: keys and values of prompt and answer; None once the pool has them back: while other answers of the request
            run, this one must not keep memory that the pool has counted as free.
        sampling: how its tokens are chosen.
        text: from ids to text.
        newest: int64 `[]` on the model's device, the newest id, not yet fed.
        launched: tokens sampled so far, read back to the host or not.
        in_flight: decode steps that were launched with it and not read back.
        draft_accepted: whether its first token was the draft, so that prefill brought the second one too.
        reason: why it ended; None while it runs.
    """

    request: Request
    index: int
    slab: KVCache | None
    sampling: SamplingState
    text: AnswerText
    newest: Tensor
    tokens: list[Token] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of the visible tokens, if they were asked for
    pieces: list[str] = field(default_factory=list)  # of the text that was given out
    launched: int = 0
    in_flight: int = 0
    decode_seconds: float = 0.0
    told_at: float | None = None  # when its newest token was given out; None: the reader's queue was full then
    draft_accepted: bool = False
    reason: FinishReason | None = None

    def say(self, pieces: Pieces) -> None:
        """Give text out."""
        if pieces.reasoning:
            self.request.events.put(ReasoningDelta(pieces.reasoning, self.index))
        if pieces.text:
            self.pieces.append(pieces.text)
            self.request.events.put(TextDelta(pieces.text, self.index))

    @property
    def cache(self) -> KVCache:
        """The slab of a sequence that has not ended."""
        assert self.slab is not None
        return self.slab

    def take_slab(self) -> KVCache | None:
        """The slab, which the sequence refers to no more; None if it was taken before."""
        slab, self.slab = self.slab, None
        return slab

    @property
    def visible(self) -> int:
        """Tokens that are not its reasoning's."""
        return len(self.tokens) - self.text.reasoning_tokens

    @property
    def can_step(self) -> bool:
        """Whether one more token may be asked for."""
        if self.reason is not None or self.request.events.full:
            return False
        return self.launched < self.request.most and self.cache.length < self.cache.capacity
