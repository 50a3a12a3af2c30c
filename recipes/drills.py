"""Drills for the decoder alone: `python -m recipes.drills --minutes 25 --start runs/pictures/export --out runs/drills`.

Owns rows of text: a list that was seen, then many questions about it, of which only what follows from the list is
taught. To find a word in a list is learned late and then at once (recipes/README.md); pictures are too dear for so many
questions. A batch of pictures now and then keeps what was learned before. Does not train eyes or ears.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from recipes.checkpoint import Progress, load_weights, read_shipped, save_state
from recipes.data import QA
from recipes.data.scene_shapes import concluding_questions, imagined
from recipes.feed import Batch, build_batch
from recipes.model import Learner, sizes
from recipes.pack import Packer, Row, RowBatch, collate
from recipes.schedule import CURRICULUM, ActiveClock, learning_rate
from recipes.steps import answers_loss, apply, half, losses
from recipes.train import Log
from vita.prompt.tokenizer import Tokenizer

COMMAND = "python -m recipes.drills"
ROWS, TOGETHER = 96, 24  # lists in a step, and those of like length that are padded together
PICTURES, EVERY = 16, 6  # in a step between drills, and how often one comes
LOG_STEPS = 40
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Step:
    """Either groups of drills or a batch of pictures."""

    drills: tuple[RowBatch, ...]
    pictures: Batch | None


def recall_rows(packer: Packer, rng: Random) -> list[Row]:
    """One imagined picture as rows of what is seen in it and then many questions, each with what follows."""
    encode, end = packer.tokenizer.encode, packer.tokenizer.im_end
    items = imagined(rng, "train")
    asked: dict[str, list[QA]] = {}
    for _ in range(5):
        for qa in concluding_questions(rng, "train", items):
            asked.setdefault(qa.answer.partition(": ")[0], []).append(qa)
    rows = []
    for seen, group in asked.items():
        rng.shuffle(group)
        ids = encode("☜" + seen + ":")
        taught = [0.0] * len(ids)
        for qa in group[:12]:
            question, said = [*encode(qa.question), end], [*encode(" " + qa.answer.partition(": ")[2]), end]
            ids += question + said
            taught += [0.0] * len(question) + [1.0] * len(said)
        size = len(ids)
        rows.append(Row(np.array(ids), np.ones(size, int), np.arange(size), np.array(taught, np.float32), 0))
    return rows


class _Stream(IterableDataset[Step]):
    def __init__(self, tokenizer: Path, seed: int) -> None:
        self.tokenizer, self.seed = tokenizer, seed

    def __iter__(self) -> Iterator[Step]:
        torch.set_num_threads(1)
        packer, index, first = Packer(Tokenizer.load(self.tokenizer)), 0, 0
        while True:
            for _ in range(EVERY - 1):
                rows = []
                while len(rows) < ROWS:
                    rows += recall_rows(packer, Random(f"{self.seed}/recall/{index}"))
                    index += 1
                rows.sort(key=lambda row: len(row.ids))
                yield Step(tuple(collate(rows[k : k + TOGETHER]) for k in range(0, len(rows), TOGETHER)), None)
            batch = build_batch(packer, CURRICULUM, len(CURRICULUM) - 1, first, PICTURES, self.seed)
            first = batch.next_index
            yield Step((), batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--start", type=Path, required=True, help="an exported checkpoint")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=1.0e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = Learner(sizes("hearing", Tokenizer.load(options.start).size))
    load_weights(model, read_shipped(options.start))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("decoder."))
    model.use_fast_attention()
    optimizer = torch.optim.AdamW(model.decoder.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.03, fused=True)
    log, clock = Log(options.out), ActiveClock(options.minutes)
    none = torch.zeros(0, 64, model.size.decoder.hidden_size)
    stream = DataLoader(_Stream(options.start, options.seed), batch_size=None, num_workers=1, prefetch_factor=8)
    for number, step in enumerate(stream):
        share = clock.tick()
        if share >= 1:
            break
        with half(CPU):
            if step.pictures is None:
                loss, right = answers_loss(model, step.drills, none)
                measured = {"drill": loss.item(), "token": right}
            else:
                loss, measured = losses(model, step.pictures, 0.0, CPU)
                measured = {"answer": measured["answer"]}
        measured["norm"] = apply(model, optimizer, loss, learning_rate(options.rate, number, share))
        log.add(measured, ROWS if step.pictures is None else PICTURES)
        if number % LOG_STEPS == LOG_STEPS - 1:
            log.write("train", {"share": round(share, 4), "step": str(number + 1), "speed": log.speed(), **log.means})
    save_state(options.out, model, optimizer, Progress(spent=clock.spent), "hearing", COMMAND)


if __name__ == "__main__":
    main()
