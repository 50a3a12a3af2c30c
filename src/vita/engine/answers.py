"""From a prefilled prompt to its sequences, and from a finished sequence to its `Done` event."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from vita.engine.kv_pool import KVPool
from vita.engine.loaded import LoadedModel
from vita.engine.request import Request, Sequence, Token
from vita.engine.runner import Runner
from vita.engine.sampled import Sampled
from vita.engine.sampler import SamplingState
from vita.events import Done, FinishReason, State, Timings, TokenLogprob, Usage
from vita.model.kv_cache import KVCache
from vita.prompt.answer_text import AnswerText
from vita.prompt.processor import prompt_usage
from vita.prompt.tokenizer import Tokenizer
from vita.runtime.device import gpu_utilisation
from vita.runtime.memory import peak_memory

CONTEXT_FULL = "The answer ends here because the model's context of {} tokens is full; start over or ask for less."


def choose_draft(request: Request, prefill_chunk: int, *, is_async: bool) -> int | None:
    """The response state token that a request is expected to begin with, to be prefilled with its prompt (speculative
    decoding with a draft of one token). If the model does begin with it, the first text comes one step sooner.

    There is no draft on a GPU: a sampled token is read one step late there, so a wrong draft would have to be taken
    back after the next step was queued. Nor is there one at the beginning of a chunk, which would be prefilled apart
    from the prompt's last position.

    Args:
        request: to be admitted.
        prefill_chunk: prompts are cut at multiples of so many positions.
        is_async: tokens are read one step late.
    """
    inputs = request.inputs
    if is_async or request.params.n > 1 or request.limit < 2 or inputs is None or inputs.length % prefill_chunk == 0:
        return None
    return inputs.state_token


def start_answers(request: Request, logits: Tensor, model: LoadedModel, pool: KVPool, runner: Runner) -> list[Sampled]:
    """Make the `n` sequences of a request and sample the first token of each. If it is the request's draft, the second
    token follows from the position of the draft.

    Args:
        request: prefilled.
        logits: `[1, vocab]` of its last position; `[2, vocab]` with that of the draft behind.
        model, pool, runner: of the engine.
    """
    params, first = request.params, request.cache
    assert first is not None
    for index in range(params.n):
        cache = first
        if index:
            cache = pool.fork(first, request.capacity)
            request.reserved -= cache.nbytes
        seed = None if params.seed is None else params.seed + index
        penalty, reasoning = model.config.generation.repetition_penalty, model.tokenizer.reasoning
        sampling = SamplingState(replace(params, seed=seed), penalty, reasoning)
        text = AnswerText(model.tokenizer, params.stop)
        request.sequences.append(Sequence(request, index, cache, sampling, text, logits))
        request.cache = None
    sampled = [replace(runner.sample(request.sequences, logits[:1].expand(params.n, -1)), first=True)]
    if request.draft is not None:
        [answer] = request.sequences
        answer.draft_accepted = sampled[0].read() == [request.draft]
        if answer.draft_accepted:
            sampled.append(replace(runner.sample([answer], logits[1:]), first=True))
        else:
            answer.cache.reset(answer.cache.length - 1)
    return sampled


def done_of_answer(answer: Sequence, reason: FinishReason, model: LoadedModel) -> Done:
    """The last event of an answer."""
    request, tokens = answer.request, answer.tokens
    notes: tuple[str, ...] = ()
    inputs = request.inputs
    if reason == "length" and inputs is not None and inputs.length + len(tokens) >= model.config.context:
        notes = (CONTEXT_FULL.format(model.config.context),)
    steps = max(0, len(tokens) - (2 if answer.draft_accepted else 1))
    done = _done(request, reason, answer.text.state, len(tokens), steps, answer.decode_seconds, model)
    usage = replace(done.usage, reasoning_tokens=answer.text.reasoning_tokens)
    return replace(
        done, usage=usage, token_ids=tuple(token.id for token in tokens), logprobs=tuple(answer.logprobs),
        notes=(*done.notes, *notes), index=answer.index,
    )  # fmt: skip


def done_of_request(request: Request, reason: FinishReason, index: int, model: LoadedModel) -> Done:
    """The last event of an answer that had no token yet."""
    return replace(_done(request, reason, None, 0, 0, 0.0, model), index=index)


def _done(
    request: Request, reason: FinishReason, state: State | None, count: int, steps: int, decode_seconds: float,
    model: LoadedModel,
) -> Done:  # fmt: skip
    inputs, seconds, watch = request.inputs, request.watch.seconds, request.watch
    length = 0 if inputs is None else inputs.length
    stages = {name: seconds.get(name, 0.0) for name in ("media", "preprocess", "load", "vision", "audio", "prefill")}
    position = KVCache.bytes_per_position(model.config.decoder, model.dtype, quantized=model.quantized_kv_cache)
    timings = Timings(
        **stages, queued=max(0.0, (watch.first_token or watch.total) - sum(stages.values())), decode=decode_seconds,
        first_token=watch.first_token, total=watch.total, decode_tokens=steps,
        bytes_per_token=model.weight_bytes + position * (length + steps // 2),
        peak_memory=peak_memory(model.device), device=str(model.device),
        gpu_utilisation=gpu_utilisation(model.device),
    )  # fmt: skip
    if inputs is None:
        return Done(reason, state, Usage(completion_tokens=count), timings)
    usage = prompt_usage(inputs, reused=request.reused, completion=count)
    return Done(reason, state, usage, timings, notes=inputs.notes)


def token_logprob(token: Token, tokenizer: Tokenizer) -> TokenLogprob:
    """A token's log-probabilities with its text and that of its alternatives. Made token by token: 100 alternatives of
    1,000 tokens at once would hold up every other answer for 0.2 s."""

    def name(i: int) -> str:
        return tokenizer.decode([i])

    top = tuple((i, name(i), p) for i, p in token.top)
    return TokenLogprob(token.id, name(token.id), token.logprob or 0.0, top)
