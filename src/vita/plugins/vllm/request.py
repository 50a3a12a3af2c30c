"""One request to a vLLM engine: its prompt, its answers, and the events that its handle reads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vita.engine.answers import CONTEXT_FULL
from vita.engine.handle import EventQueue
from vita.engine.scheduler import UNREAD_SECONDS
from vita.errors import ResourceError
from vita.events import Done, FinishReason, ReasoningDelta, Started, TextDelta, Timings, TokenLogprob, Usage
from vita.plugins.vllm.checkpoint import OpenedModel
from vita.plugins.vllm.media import KINDS, media_digest
from vita.plugins.vllm.renderer import with_placeholders
from vita.plugins.vllm.sampling import token_logprob
from vita.prompt.answer_text import AnswerText, Pieces
from vita.prompt.processor import ProcessedInputs, prompt_usage
from vita.prompt.template import Media
from vita.prompt.turn_reader import PreparedTurn
from vita.runtime.clock import Stopwatch
from vita.types import SamplingParams

REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "cancelled"}
Prompt = dict[str, Any]  # vLLM's TokensPrompt


@dataclass(eq=False)
class Answer:
    """One of the answers of a request, so far."""

    index: int
    text: AnswerText
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reused: int = 0  # positions of the prompt that vLLM found in its prefix cache
    metrics: Any = None  # vLLM's RequestStateStats; None before its first output


class VllmRequest:
    """A request. All but `read_by` and `usage_so_far` is called in the engine's event loop.

    Args:
        params: checked.
        priority: lower values are served first.
        salt: requests with another one neither use nor see what this one leaves in the caches.
        opened: the checkpoint.
        loop: of the engine.

    Attributes:
        cancelled: set from any thread; ends the reading of media.
        inputs: prompt, once it is made.
        tasks: of the answers that run.
        ended: whether its last event was given out.
        failed: whether that was an error.
    """

    def __init__(
        self, params: SamplingParams, priority: int, salt: str, opened: OpenedModel, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.params, self.priority, self.salt, self._opened = params, priority, salt, opened
        self._was_read = was_read = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the engine is closed
                loop.call_soon_threadsafe(was_read.set)

        self.events = EventQueue(wake)
        self.watch = Stopwatch()
        self.cancelled = self.ended = self.failed = False
        self.inputs: ProcessedInputs | None = None
        self.prompt: Prompt = {}
        self.answers = [Answer(n, AnswerText(opened.tokenizer, params.stop)) for n in range(params.n)]
        self.tasks: list[asyncio.Task[FinishReason]] = []
        self.open = params.n  # answers without `Done`
        self.deadline: asyncio.TimerHandle | None = None

    def set_prompt(self, inputs: ProcessedInputs, turns: Sequence[PreparedTurn]) -> None:
        """The prompt as vLLM takes it: ids with one placeholder for each item, and the decoded items."""
        items = [piece for turn in turns for piece in turn.pieces if isinstance(piece, Media)]
        ids, kept = with_placeholders(inputs.spans, items, self._opened.placeholders)
        prompt: Prompt = {"prompt_token_ids": ids}
        by_kind = {kind: found for kind in KINDS if (found := [item for item in kept if item.kind == kind])}
        if by_kind:
            prompt["multi_modal_data"] = by_kind
        if by_kind and self.salt:
            # vLLM salts its prefix cache only. With names of their own, encoded media are not shared either.
            prompt["multi_modal_uuids"] = {
                kind: [f"{self.salt}:{media_digest(item).hex()}" for item in found] for kind, found in by_kind.items()
            }
        if self.salt:
            prompt["cache_salt"] = self.salt
        self.prompt, self.inputs = prompt, inputs

    def usage_so_far(self) -> Usage:
        """What it has used; called from any thread."""
        inputs, count = self.inputs, sum(len(answer.tokens) for answer in self.answers)
        if inputs is None:
            return Usage()
        reasoning = sum(answer.text.reasoning_tokens for answer in self.answers)
        return prompt_usage(inputs, reused=self.answers[0].reused, completion=count, reasoning=reasoning)

    async def wait_until_read(self) -> bool:
        """Wait while the reader is behind; False if it reads nothing for a minute. vLLM goes on meanwhile."""
        while self.events.full:
            self._was_read.clear()
            if self.events.full:
                try:
                    await asyncio.wait_for(self._was_read.wait(), UNREAD_SECONDS)
                except (asyncio.TimeoutError, TimeoutError):
                    return False
        return True

    def take(self, answer: Answer, output: Any) -> FinishReason | None:
        """Give out what one of vLLM's outputs brings.

        Args:
            answer: that it belongs to.
            output: vLLM's RequestOutput, with the tokens since the last one.

        Returns:
            Why the answer ends here; None if it goes on.

        Raises:
            ResourceError: vLLM gave the answer up.
        """
        (completion,) = output.outputs
        most = self.params.max_tokens
        self.watch.mark_first_token()
        answer.metrics, answer.reused = output.metrics, output.num_cached_tokens or answer.reused
        for place, token in enumerate(completion.token_ids):
            first = not answer.tokens
            answer.tokens.append(token)
            pieces = answer.text.push(token)
            if completion.logprobs is not None and not pieces.hidden:
                found = completion.logprobs[place]
                answer.logprobs.append(token_logprob(token, found, self.params.logprobs, self._opened.tokenizer))
            if first:
                self.events.put(Started(answer.text.state, answer.index))
            self._say(answer, pieces)
            if answer.text.stopped or (token in self._opened.stop_ids and not self.params.ignore_eos):
                return "stop"
            if most is not None and len(answer.tokens) - answer.text.reasoning_tokens >= most:
                return "length"
        if completion.finish_reason is None:
            return None
        if completion.finish_reason not in REASONS:
            raise ResourceError(f"vLLM gave the answer up ({completion.finish_reason})", fix="ask again")
        return REASONS[completion.finish_reason]

    def finish(self, answer: Answer, reason: FinishReason, context: int) -> bool:
        """Give out the end of an answer; returns whether it was the last one of the request.

        Args:
            context: positions of the longest sequence.
        """
        if self.ended:
            return False
        self._say(answer, answer.text.flush())
        self.open -= 1
        self.ended = not self.open
        self.events.put(self._done(answer, reason, context))
        return self.ended

    def fail(self, error: BaseException) -> bool:
        """End with an error, which the reader raises; False if the request has ended before."""
        if self.ended:
            return False
        self.ended = self.failed = True
        self.events.put(error)
        return True

    def _say(self, answer: Answer, pieces: Pieces) -> None:
        if pieces.reasoning:
            self.events.put(ReasoningDelta(pieces.reasoning, answer.index))
        if pieces.text:
            self.events.put(TextDelta(pieces.text, answer.index))

    def _done(self, answer: Answer, reason: FinishReason, context: int) -> Done:
        inputs, count = self.inputs, len(answer.tokens)
        usage = Usage() if inputs is None else prompt_usage(inputs, reused=answer.reused, completion=count)
        notes = () if inputs is None else inputs.notes
        if reason == "length" and inputs is not None and inputs.length + count >= context:
            notes = (*notes, CONTEXT_FULL.format(context))
        return Done(
            reason, answer.text.state, replace(usage, reasoning_tokens=answer.text.reasoning_tokens),
            self._timings(answer), tuple(answer.tokens), tuple(answer.logprobs), notes, answer.index,
        )  # fmt: skip

    def _timings(self, answer: Answer) -> Timings:
        """Where the time went. vLLM's prefill includes its encoders."""
        watch, found = self.watch, answer.metrics
        media, preprocess = watch.seconds.get("media", 0.0), watch.seconds.get("preprocess", 0.0)
        prefill = decode = 0.0
        if found is not None and found.first_token_ts:
            prefill = found.first_token_ts - found.scheduled_ts
            decode = max(0.0, found.last_token_ts - found.first_token_ts)
        waited = (watch.first_token or watch.total) - prefill - media - preprocess
        return Timings(
            media=media, preprocess=preprocess, queued=max(0.0, waited), prefill=prefill, decode=decode,
            first_token=watch.first_token, total=watch.total, decode_tokens=max(0, len(answer.tokens) - 1),
            device="vLLM",
        )  # fmt: skip
