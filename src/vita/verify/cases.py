"""A whole request of a set: prompt ids, fusion, hidden states, logits, and 24 greedy ids with and without cache."""

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
    """Rows of one case of model.json; `plain` is the engine unrounded, where this one is quantized."""
    sounds = [banks[m] for m in case["media"] if m in banks]
    pictures = [pixels[m] for m in case["media"] if m in pixels]
    ids = ids_of_reference_prompt(case["prompt"], engine.tokenizer, audio=bool(sounds))
    yield count_unequal("prompt ids", name, ids, case["input_ids"])
    prepared = ProcessedInputs(
        ids=ids,
        pixels=torch.cat(pictures) if pictures else None,
        tile_keys=[digest(tile) for picture in pictures for tile in picture],
        filterbanks=[[s] for s in sounds],
        sound_keys=[digest(s) for s in sounds],
        image_tokens=sum(p.shape[0] for p in pictures) * engine.config.vision.tokens_per_tile,
        audio_tokens=sum(audio_rows([s], engine.config) for s in sounds),
        pictures=len(pictures),
        audio_seconds=0.0,
        dropped=0,
        notes=(),
    )
    fused = engine.embed(prepared, Stopwatch(engine.device))
    # The reference cuts the END off a prompt that is too long; a user of the engine gets an error instead.
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
    """The likeliest ids, `steps` of them, going on past stop tokens as the goldens do; with a static cache or anew."""
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
    """A stage kept whole, or every eighth row (values, for logits) of it."""
    if numbers.array(f"{file}_every8") is not None:
        return numbers.compare(stage, name, f"{file}_every8", ours[::8])
    return numbers.compare(stage, name, file, ours)
