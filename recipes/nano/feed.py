"""Batches for the trainer, drawn in a worker process beside it.

Owns the order of the data: sample numbers count up, and a batch is a pure function of (first number, phase, seed).
Does not know about losses or weights.
"""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from recipes.nano.data import Sample, Split, render_sample
from recipes.nano.pack import Packer
from recipes.nano.schedule import Phase
from recipes.nano.tiles import training_tiles
from vita.prompt.tokenizer import Tokenizer
from vita.train.packing import Row, RowBatch, collate_groups

SHAPE = (4, 16, 16)


@dataclass(frozen=True)
class Batch:
    """Pictures, what lies under their patches, and the rows about them.

    Attributes:
        tiles: uint8 `[tiles, S, S, 3]`, of all pictures in order.
        labelled: int64, the tiles that carry dense labels.
        labels: uint8 `[labelled, 4, G, G]`.
        rows: question rows, short ones apart from long ones; none in phases without answers.
        shown: int64, the tiles that `rows` take, in order.
        next_index: the first sample number after this batch.
        phase: the phase's number it was drawn for.
    """

    tiles: Tensor
    labelled: Tensor
    labels: Tensor
    rows: tuple[RowBatch, ...]
    shown: Tensor
    next_index: int
    phase: int


def build_batch(
    packer: Packer, phases: tuple[Phase, ...], number: int, first: int, size: int, seed: int, split: Split = "train"
) -> Batch:
    """The batch that begins with sample `first` in phase `number`."""
    phase = phases[number]
    tiles: list[np.ndarray] = []
    labels, labelled = [], []
    rows: list[tuple[Row, range]] = []
    count = 0
    for index in range(first, first + size):
        rng = Random(f"{seed}/{split}/batch/{index}")
        stage = rng.choices(phase.stages(), phase.weights())[0]
        sample = render_sample(index, split, stage, seed)
        cut = None if sample.picture is None else training_tiles(sample.picture)
        here = range(count, count + (0 if cut is None else len(cut)))
        if cut is not None:
            tiles.append(cut)
            count += len(cut)
        if len(here) == 1 and sample.chars is not None:
            labelled.append(here[0])
            labels.append(dense_labels(sample))
        if phase.answers and sample.qa:
            rows.append((packer.row(sample.qa, len(here), rng, drill=sample.drill), here))
    rows.sort(key=lambda one: len(one[0].ids))
    return Batch(
        tiles=torch.from_numpy(np.concatenate(tiles)) if tiles else torch.zeros(0, 224, 224, 3, dtype=torch.uint8),
        labelled=torch.tensor(labelled, dtype=torch.long),
        labels=torch.from_numpy(np.stack(labels)) if labels else torch.zeros(0, *SHAPE, dtype=torch.uint8),
        rows=collate_groups([row for row, _ in rows]),
        shown=torch.tensor([tile for _, tiles_here in rows for tile in tiles_here], dtype=torch.long),
        next_index=first + size,
        phase=number,
    )


def dense_labels(sample: Sample) -> np.ndarray:
    """uint8 `[4, G, G]`: character, shape, colour, place of the letter in its text."""
    planes = [p for p in (sample.chars, sample.shape, sample.color, sample.order) if p is not None]
    return np.stack(planes)


class _Stream(IterableDataset[Batch]):
    def __init__(self, feed: Feed, first: int) -> None:
        self.feed, self.first = feed, first

    def __iter__(self) -> Iterator[Batch]:
        feed = self.feed
        torch.set_num_threads(1)
        packer, first = Packer(Tokenizer.load(feed.tokenizer)), self.first
        while True:
            batch = build_batch(packer, feed.phases, feed.phase.value, first, feed.size, feed.seed)
            first = batch.next_index
            yield batch


class Feed:
    """Draws ahead of the trainer.

    Args:
        tokenizer: folder of the tokenizer's files.
        phases: what to draw; the trainer sets `phase.value` as the run goes on.
        size: samples in a batch.
        seed: of everything drawn.
        worker: draw in a process of its own; without, in the trainer's (tests).
    """

    def __init__(
        self, tokenizer: Path, phases: tuple[Phase, ...], size: int, seed: int, *, worker: bool = True
    ) -> None:
        self.tokenizer, self.phases, self.size, self.seed = tokenizer, phases, size, seed
        self.worker = worker
        self.phase = multiprocessing.Value(ctypes.c_int, 0, lock=False)

    def batches(self, first: int) -> Iterator[Batch]:
        """Batches without end, from sample number `first` on."""
        stream = _Stream(self, first)
        if not self.worker:
            yield from stream
        yield from DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=8)
