"""Prefill and decode: from embedding rows to a stream of token ids.

Owns the loop, on one screen: prefill in chunks, then sample, step, check. Does not know about text.

On a CPU a token is checked before it is fed. A GPU is kept one step ahead: the token it has chosen is fed at once, and
checked here while the step runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from vita.engine.sampler import Sampler, log_probabilities
from vita.errors import Cancelled
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache
from vita.planning.memory_plan import PREFILL_CHUNK
from vita.runtime.clock import Stopwatch


@dataclass(frozen=True)
class Token:
    """One generated id, with its log-probability and alternatives if asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@torch.inference_mode()
def prefill(
    decoder: Decoder, embeds: Tensor, cache: KVCache, turn: AbstractContextManager[object],
    cancelled: Callable[[], bool],
) -> Tensor:  # fmt: skip
    """Fill the cache with a prompt; only the last position goes through the head.

    Args:
        decoder: the model.
        embeds: `[length, H]`.
        cache: empty or holding a prefix; extended in place.
        turn: held while the model computes, so that concurrent requests take turns.
        cancelled: asked between layers, so that even a slow machine stops soon.

    Returns:
        logits `[vocab]` of the next token.
    """
    hidden = embeds
    for chunk in embeds.split(PREFILL_CHUNK):
        with turn:
            for state in decoder.hidden_states(chunk[None], cache):
                if cancelled():
                    raise Cancelled
                hidden = state
    with turn:
        return decoder.logits(hidden[:, -1:])[0, 0]


Step = Callable[[Tensor, KVCache], Tensor]  # feeds a token, int64 []; extends the cache; logits [vocab] of the next


def decode(
    step: Step, logits: Tensor, cache: KVCache, sampler: Sampler, stop_ids: frozenset[int], max_tokens: int,
    cancelled: Callable[[], bool], watch: Stopwatch, *, ahead: bool = False,
) -> Iterator[Token]:  # fmt: skip
    """Tokens one by one, the stop token included, until a stop id, the limit, or the cache is full.

    Args:
        step: one step of the model, alone or in company.
        logits: `[vocab]` from prefill.
        cache: holding the prompt; extended in place.
        ahead: feed a token before its id is known here. The step after a stop token is computed for nothing (the
            cache then holds that token too), and the time of a step is counted from one id to the next. With
            log-probabilities every id is waited for all the same.
    """
    top = sampler.params.logprobs
    early, before = False, time.perf_counter()
    for produced in range(1, max_tokens + 1):
        chosen = sampler.choose(logits)
        read = reading(chosen)
        more = produced < max_tokens and cache.length < cache.capacity
        fed, early = early, ahead and more and not top
        following = step(chosen, cache) if early else logits
        token = read()
        now = time.perf_counter()
        if fed:
            watch.add("decode", now - before)
        before = now
        watch.mark_first_token()
        if top:
            logprob, best = log_probabilities(logits, token, top)
            yield Token(token, logprob, tuple(best))
        else:
            yield Token(token)
        if token in stop_ids or not more:
            return
        if cancelled():
            raise Cancelled
        if not early:
            with watch.stage("decode"):
                following = step(chosen, cache)
        logits = following


def reading(chosen: Tensor) -> Callable[[], int]:
    """Starts bringing a number to the host; what comes back waits for it, and for nothing that is asked for later."""
    if chosen.device.type != "cuda":
        return lambda: int(chosen)
    # Asleep, not spinning, until it is there: as many threads may wait as there are requests.
    here, arrived = torch.empty((), dtype=chosen.dtype, pin_memory=True), torch.cuda.Event(blocking=True)
    with torch.cuda.device_of(chosen):
        here.copy_(chosen, non_blocking=True)
        arrived.record()

    def read() -> int:
        arrived.synchronize()
        return int(here)

    return read
