"""An evaluation that ends in time: the held-out table as far as some seconds reach.

Owns the clock and the files `eval.md` and `eval.json`, which are written after every chunk. The full table is
`recipes.nano.evaluate`'s, on an exported checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from recipes.nano.decode import Answerer
from recipes.nano.evaluate import Part, as_json, evaluate, evaluate_clips, evaluate_sounds, report
from recipes.nano.model import Learner
from recipes.nano.pack import Packer
from recipes.nano.score import markdown
from recipes.nano.speech.voices_here import engine_here
from vita.layers.attention import attend
from vita.prompt.tokenizer import Tokenizer

PICTURES, WIDE, SPOKEN, SOUNDS, CLIPS = 150, 30, 30, 30, 30


def quick_evaluation(model: Learner, tokenizer: Tokenizer, out: Path, seconds: float) -> list[Part]:
    """The parts that were measured, the last one perhaps in part."""
    end = time.monotonic() + seconds
    for block in (*model.vision.layers, *model.decoder.layers):
        block.attn.attend = attend
    answerer = Answerer(
        vision=model.vision, projector=model.projector, decoder=model.decoder, packer=Packer(tokenizer),
        audio=model.audio, adapter=model.adapter,
    )  # fmt: skip
    parts: dict[str, Part] = {}
    slowest = 0.0
    with torch.inference_mode():
        for part in _parts(answerer):
            now = time.monotonic()
            parts[part.name] = part
            (out / "eval.md").write_text(report(list(parts.values()), ()), encoding="utf-8")
            (out / "eval.json").write_text(json.dumps(as_json(list(parts.values()), ()), indent=1), encoding="utf-8")
            slowest = max(slowest, part.seconds * 30 / max(1, part.done))
            if now + 1.5 * slowest > end:  # another chunk may not be done in time
                break
    for part in parts.values():
        print(markdown(part.title, part.rows), flush=True)
    return list(parts.values())


def _parts(answerer: Answerer) -> Iterator[Part]:
    yield from evaluate(answerer, "mix", PICTURES)
    yield from evaluate(answerer, "tiles", WIDE)
    if engine_here():
        yield from evaluate_sounds(answerer, SPOKEN, SOUNDS)
    yield from evaluate_clips(answerer, CLIPS)
