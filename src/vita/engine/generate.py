"""Prefill and decode: from embedding rows to a stream of token ids.

Owns the loop, on one screen: prefill in chunks, then sample, check, step. Does not know about text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from vita.decoder.kv_cache import KVCache
from vita.decoder.qwen2 import Decoder
from vita.decoder.sampling import Sampler, log_probabilities
from vita.engine.metrics import Stopwatch

PREFILL_CHUNK = 2048  # positions computed together: bounds the memory of activations, amortises reading the weights


@dataclass(frozen=True)
class Token:
    """One generated id, with its log-probability and alternatives if asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Cancelled(Exception):
    """The caller no longer wants the answer."""


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


Step = Callable[[int, KVCache], Tensor]  # feeds a token, extends the cache; logits [vocab] of the next


def decode(
    step: Step, logits: Tensor, cache: KVCache, sampler: Sampler, stop_ids: frozenset[int], max_tokens: int,
    cancelled: Callable[[], bool], watch: Stopwatch,
) -> Iterator[Token]:  # fmt: skip
    """Tokens one by one, the stop token included, until a stop id, the limit, or the cache is full.

    Args:
        step: one step of the model, alone or in company.
        logits: `[vocab]` from prefill.
        cache: holding the prompt; extended in place.
    """
    top = sampler.params.logprobs
    for produced in range(1, max_tokens + 1):
        token = sampler(logits)
        watch.mark_first_token()
        if top:
            logprob, best = log_probabilities(logits, token, top)
            yield Token(token, logprob, tuple(best))
        else:
            yield Token(token)
        if token in stop_ids or produced == max_tokens or cache.length >= cache.capacity:
            return
        if cancelled():
            raise Cancelled
        with watch.stage("decode"):
            logits = step(token, cache)
