"""An evaluation that ends in time: the held-out table as far as some seconds reach.

Owns how many samples the time allows, and the files `eval.md` and `eval.json`, which are written after every part. The
full table is `recipes.nano.evaluate`'s, on an exported checkpoint.
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
from vita.prompt.tokenizer import Tokenizer

SHARES = (("mix", 0.5), ("tiles", 0.15), ("sounds", 0.2), ("clips", 0.15))  # of the seconds
MOST = 300  # samples of a part
FIRST = 4  # pictures that show how long one takes
SLOWER = 2.0  # a later part may take so many times what the first samples took


def quick_evaluation(model: Learner, tokenizer: Tokenizer, out: Path, seconds: float) -> list[Part]:
    """The parts that were measured, each with as many samples as its share of the time allows."""
    end = time.monotonic() + seconds
    answerer = Answerer(
        vision=model.vision, projector=model.projector, decoder=model.decoder, packer=Packer(tokenizer),
        audio=model.audio, adapter=model.adapter,
    )  # fmt: skip
    parts: dict[str, Part] = {}
    with torch.inference_mode():
        first = _last(evaluate(answerer, "mix", FIRST))
        pace = SLOWER * first.seconds / FIRST
        for name, share in SHARES:
            left = end - time.monotonic()
            count = min(MOST, int(min(share * seconds, left) / pace))
            if count < 1 or (name == "sounds" and not engine_here()):
                continue
            parts[name] = _part(answerer, name, count)
            (out / "eval.md").write_text(report(list(parts.values()), ()), encoding="utf-8")
            (out / "eval.json").write_text(json.dumps(as_json(list(parts.values()), ()), indent=1), encoding="utf-8")
            print(markdown(parts[name].title, parts[name].rows), flush=True)
    return list(parts.values())


def _part(answerer: Answerer, name: str, count: int) -> Part:
    if name == "sounds":
        return _last(evaluate_sounds(answerer, max(1, count // 3), max(1, count // 3)))
    if name == "clips":
        return _last(evaluate_clips(answerer, count))
    return _last(evaluate(answerer, "mix" if name == "mix" else "tiles", count))


def _last(parts: Iterator[Part]) -> Part:
    *_, last = parts
    return last
