"""Verify one request of a set, from prompt ids to greedy ids with and without a KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vita.engine.engine import Engine
from vita.media.digest import digest
from vita.model.kv_cache import KVCache
from vita.prompt.processor import ProcessedInputs, audio_rows
from vita.prompt.template import ids_of_reference_prompt
from vita.runtime.clock import Stopwatch
from vita.verify.quantized import compare_quantized
from vita.verify.rows import Reference, Row, compare_ids, count_unequal


def verify_case(
    engine: Engine, name: str, case: dict[str, Any], pixels: dict[str, Tensor], banks: dict[str, Tensor],
    numbers: Reference, plain: Engine | None = None,
) -> Iterator[Row]:  # fmt: skip
    """Compare one case: prompt ids, embeddings, hidden states, logits, and greedy ids.

    Args:
        engine: to verify.
        name: of the case.
        case: its entry in model.json.
        pixels: float32 `[tiles or frames, 3, S, S]` by media name.
        banks: filterbanks, float32 `[T, 80]`, by media name.
        numbers: the reference.
        plain: the unquantised engine, if `engine` is quantised.
    """
    filterbanks = [banks[m] for m in case["media"] if m in banks]
    images = [pixels[m] for m in case["media"] if m in pixels]
    ids = ids_of_reference_prompt(case["prompt"], engine.tokenizer, audio=bool(filterbanks))
    yield count_unequal("prompt ids", name, ids, case["input_ids"])
    prepared = ProcessedInputs(
        ids=ids,
        pixels=torch.cat(images) if images else None,
        tile_keys=[digest(tile) for image in images for tile in image],
        filterbanks=[[bank] for bank in filterbanks],
        sound_keys=[digest(bank) for bank in filterbanks],
        image_tokens=sum(tiles.shape[0] for tiles in images) * engine.config.vision.tokens_per_tile,
        audio_tokens=sum(audio_rows([bank], engine.config) for bank in filterbanks),
        pictures=len(images),
        audio_seconds=0.0,
        dropped=0,
        notes=(),
    )
    fused = engine.embed(prepared, Stopwatch(engine.device))
    # The reference truncates the end of a prompt that is too long; the engine raises an error instead.
    fused = fused[: engine.config.max_length]
    yield count_unequal("fused length", name, [fused.shape[0]], [case["fused_len"]])
    yield _either(numbers, "fused", name, f"fused_{name}", fused)
    states = list(engine.decoder.hidden_states(fused[None]))
    last = torch.stack([s[0, -1] for s in states])  # [layers + 1, H]
    yield numbers.compare("hidden states", name, f"hidden_lastpos_{name}", last)
    yield _either(numbers, "logits", name, f"logits_last_{name}", engine.decoder.logits(states[-1])[0, -1])
    if plain is not None:
        yield from compare_quantized(name, plain.decoder, engine.decoder, fused, ids)
    steps = len(case["greedy_ids"])
    yield compare_ids(name, "cached", greedy(engine, fused, steps, cached=True), case, numbers.near_tie)
    yield compare_ids(name, "not cached", greedy(engine, fused, steps, cached=False), case, numbers.near_tie)


def greedy(engine: Engine, fused: Tensor, steps: int, *, cached: bool) -> list[int]:
    """Up to `steps` greedy ids, the stop id included; with a KV cache, or by recomputing the prefix at every step.

    Args:
        engine: to verify.
        fused: prompt embeddings `[length, H]`.
        steps: maximum number of ids.
        cached: use a KV cache.
    """
    decoder = engine.decoder
    cache = None
    if cached:
        cache = KVCache(engine.config.decoder, fused.shape[0] + steps, dtype=engine.dtype, device=engine.device)
    rows, out = fused[None], list[int]()
    stops = set(engine.config.generation.eos_ids)
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
