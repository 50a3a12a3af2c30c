"""Verify one request of a set, from prompt ids to greedy ids with and without a KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vita.engine.fusion import fuse
from vita.engine.loaded import LoadedModel
from vita.model.kv_cache import KVCache
from vita.prompt.template import ids_of_reference_prompt, spans_of_ids
from vita.verify.encoders import encode
from vita.verify.quantized import compare_quantized
from vita.verify.rows import Reference, Row, compare_ids, count_unequal


def verify_case(
    model: LoadedModel, name: str, case: dict[str, Any], pixels: dict[str, Tensor], banks: dict[str, Tensor],
    numbers: Reference, plain: LoadedModel | None = None,
) -> Iterator[Row]:  # fmt: skip
    """Compare one case: prompt ids, embeddings, hidden states, logits, and greedy ids.

    Args:
        model: to verify.
        name: of the case.
        case: its entry in model.json.
        pixels: float32 `[tiles or frames, 3, S, S]` by media name.
        banks: filterbanks, float32 `[T, 80]`, by media name.
        numbers: the reference.
        plain: the unquantised model, if `model` is quantised.
    """
    filterbanks = [banks[m] for m in case["media"] if m in banks]
    images = [pixels[m] for m in case["media"] if m in pixels]
    ids = ids_of_reference_prompt(case["prompt"], model.tokenizer, audio=bool(filterbanks))
    yield count_unequal("prompt ids", name, ids, case["input_ids"])
    spans, features = encode(model, images, filterbanks)
    fused = fuse(spans_of_ids(ids, spans), model.decoder.embed_tokens, features)
    # The reference truncates the end of a prompt that is too long; the engine raises an error instead.
    fused = fused[: model.config.max_length]
    yield count_unequal("fused length", name, [fused.shape[0]], [case["fused_len"]])
    yield _either(numbers, "fused", name, f"fused_{name}", fused)
    states = list(model.decoder.hidden_states(fused[None]))
    last = torch.stack([s[0, -1] for s in states])  # [layers + 1, H]
    yield numbers.compare("hidden states", name, f"hidden_lastpos_{name}", last)
    yield _either(numbers, "logits", name, f"logits_last_{name}", model.decoder.logits(states[-1])[0, -1])
    if plain is not None:
        yield from compare_quantized(name, plain.decoder, model.decoder, fused, ids)
    steps = len(case["greedy_ids"])
    yield compare_ids(name, "cached", greedy(model, fused, steps, cached=True), case, numbers.near_tie)
    yield compare_ids(name, "not cached", greedy(model, fused, steps, cached=False), case, numbers.near_tie)


def greedy(model: LoadedModel, fused: Tensor, steps: int, *, cached: bool) -> list[int]:
    """Up to `steps` greedy ids, the stop id included; with a KV cache, or by recomputing the prefix at every step.

    Args:
        model: to verify.
        fused: prompt embeddings `[length, H]`.
        steps: maximum number of ids.
        cached: use a KV cache.
    """
    decoder = model.decoder
    cache = None
    if cached:
        cache = KVCache(model.config.decoder, fused.shape[0] + steps, dtype=model.dtype, device=model.device)
    rows, out = fused[None], list[int]()
    stops = set(model.config.generation.eos_ids)
    while len(out) < steps:
        token = int(decoder.logits(decoder(rows, cache)[:, -1:])[0, 0].argmax())
        out.append(token)
        if token in stops:
            break
        new = decoder.embed_tokens(torch.tensor([[token]]))
        rows = new if cached else torch.cat([rows, new], dim=1)
    return out


def _either(numbers: Reference, stage: str, name: str, file: str, ours: Tensor) -> Row:
    """Compare a stage with its reference file, which may hold every eighth row (of logits, every eighth value)."""
    if numbers.array(f"{file}_every8") is not None:
        return numbers.compare(stage, name, f"{file}_every8", ours[::8])
    return numbers.compare(stage, name, file, ours)
