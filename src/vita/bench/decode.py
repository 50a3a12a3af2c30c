"""Prefill and decode of one sequence in the calling thread, as the engine cuts them; for measurements."""

from __future__ import annotations

import torch
from torch import Tensor

from vita.engine.decode import DecodeRunner
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache
from vita.planning.memory_plan import prefill_chunk


@torch.inference_mode()
def prefill(decoder: Decoder, embeds: Tensor, cache: KVCache) -> Tensor:
    """Fill the cache with a prompt `[length, H]`; returns logits `[vocab]` of the next token."""
    hidden = embeds[None, :0]
    for piece in embeds.split(prefill_chunk(decoder.device)):
        hidden = decoder(piece[None], cache)
    return decoder.logits(hidden[:, -1:])[0, 0]


@torch.inference_mode()
def decode(runner: DecodeRunner, logits: Tensor, cache: KVCache, tokens: int) -> int:
    """Greedy steps behind a prompt until there are so many tokens or the cache is full; returns how many there are.

    Ids stay on the device: what is measured is the step.
    """
    token, count = logits.argmax()[None], 1
    while count < tokens and cache.length < cache.capacity:
        token = runner(token, [cache])[0].argmax()[None]
        count += 1
    return count
