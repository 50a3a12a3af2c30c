"""Teaches a model that sees to hear and to watch: `python -m recipes.nano.speech.train --out runs/speech`.

Owns the task: first the audio encoder alone writes down what is said (CTC), then everything is taught together, a batch
of sounds and clips, batches of pictures and, if wanted, of sounds rehearsed (`recipes.nano.speech.rehearsal`). The loop
is `vita.train.loop`. Starts from the shipped checkpoint. A killed run goes on with `--resume`. A process for each
core: `torchrun --standalone --nproc-per-node 2 -m recipes.nano.speech.train`.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from recipes.nano import steps
from recipes.nano.checkpoint import EARS, HEADS, carried, hears, load_weights, read_shipped
from recipes.nano.model import PARTS, Learner, sizes
from recipes.nano.pack import Packer
from recipes.nano.pictures import show
from recipes.nano.speech.losses import heard_sounds, in_rows, losses, word_errors_of
from recipes.nano.speech.rehearsal import A_STEP, Rehearsal
from recipes.nano.speech.rows import (
    BESIDE,
    Mix,
    SpeechBatch,
    SpeechPacker,
    bank_of,
    build_speech_batch,
    draw,
    statistics,
)
from recipes.nano.tokenizer import tokenizer_in
from vita.checkpoint.files import DEFAULT
from vita.prompt.tokenizer import Tokenizer
from vita.train.checkpoint import FILE, Progress, make_state, read_state, restore, save_state
from vita.train.curves import Curves, Measured, mean_of
from vita.train.loop import Loop, LoopOptions, Objective
from vita.train.optimizer import Group, autocast, freeze, make_adamw
from vita.train.parallel import DataParallel
from vita.train.schedule import DECAY_FROM, ActiveClock

HEARING_UNTIL = 0.4  # share of the budget with CTC alone
# What is trained at which share of the rate: what sees and answers knows its trade already.
GROUPS = (Group(("vision.", "projector.", "dense."), 0.7, 0.03), Group(("decoder.",), 0.8, 0.03))
STATISTICS_FROM = 200  # sounds
CPU = torch.device("cpu")
RECORDED, APART = 16, 7  # sounds to rehearse in one batch; their seed's distance from the others'
COMMAND = "python -m recipes.nano.speech.train"


@dataclass(frozen=True)
class Options:
    """What the command line sets."""

    out: Path
    minutes: float
    weights: Path = DEFAULT
    heads: Path = HEADS
    batch: int = 16
    rate: float = 1.0e-3
    seed: int = 1
    resume: bool = False
    worker: bool = True
    steps: int | None = None
    preset: str = "hearing"
    hearing_until: float = HEARING_UNTIL
    warm_up: int = 200
    rehearse: int = 0
    ears: float = 1.0
    freeze: Sequence[str] = ()


class _Stream(IterableDataset[SpeechBatch]):
    """Everything, or what is only heard, without end."""

    def __init__(self, run: Run, first: int) -> None:
        self.tokenizer, self.answers = run.folder, run.answers
        self.size, self.seed, self.parallel = run.options.batch, run.options.seed, run.parallel
        self.first = run.parallel.samples_from(first, self.size)

    def __iter__(self) -> Iterator[SpeechBatch]:
        torch.set_num_threads(1)
        packer, first = SpeechPacker(Packer(Tokenizer.load(self.tokenizer))), self.first
        while True:
            batch = build_speech_batch(packer, first, self.size, self.seed, mix_of(self.answers.value))
            first = self.parallel.samples_from(self.parallel.next_index(batch.next_index, self.size), self.size)
            yield batch


class _Alone(Dataset[SpeechBatch]):
    """Sounds to be rehearsed, by number."""

    def __init__(self, run: Run) -> None:
        self.packer = SpeechPacker(Packer(Tokenizer.load(run.folder)))
        self.seed, self.count = run.options.seed + APART * (1 + run.parallel.rank), run.options.rehearse

    def __len__(self) -> int:
        return -(-self.count // RECORDED)

    def __getitem__(self, number: int) -> SpeechBatch:
        return build_speech_batch(self.packer, number * RECORDED, RECORDED, self.seed, "alone")


def mix_of(answers: int) -> Mix:
    """What a batch is drawn from."""
    return "everything" if answers else "hearing"


class Run:
    """One training run in a folder: the task of `vita.train.loop`."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.parallel = DataParallel.from_environment(CPU)
        self.folder = options.out / "tokenizer"
        if self.parallel.first:
            tokenizer_in(options.out)
        self.parallel.wait()  # the first process writes the tokenizer's files, the others read them
        tokenizer = tokenizer_in(options.out)
        torch.manual_seed(options.seed)
        self.model = Learner(sizes(options.preset, tokenizer.size))
        weights = carried(read_shipped(options.weights, options.heads), Tokenizer.load(options.weights), tokenizer)
        load_weights(self.model, weights)
        if not hears(self.model.state_dict()):
            self._measure()
        self.model.use_fast_attention()
        freeze(self.model, options.freeze)
        self.optimizer = make_adamw(self.model, (Group(EARS, options.ears, 0.03), *GROUPS))
        self.progress = Progress()
        if options.resume and (options.out / FILE).exists():
            self.progress = restore(read_state(options.out), self.model, self.optimizer)
        self.answers = multiprocessing.Value(ctypes.c_int, 0, lock=False)
        self.curves = Curves(options.out, show)
        self.rehearsal = Rehearsal()
        self.clock = ActiveClock(options.minutes, self.progress.spent)

    def _measure(self) -> None:
        """The statistics that normalise every filterbank."""
        sounds = [draw(k, "train", 0, "hearing").sound for k in range(STATISTICS_FROM)]
        banks = [bank_of(sound.samples) for sound in sounds if sound is not None]
        self.model.audio.cmvn_mean.data, self.model.audio.cmvn_istd.data = statistics(banks)

    def train(self) -> Learner:
        """Until the budget is spent."""
        options = self.options
        how = LoopOptions(options.rate, options.warm_up, warm_up_phases=True, steps=options.steps)
        parameters = self.model.parameters()
        self.clock.skip()
        loop = Loop(
            self, parameters, self.optimizer, self.progress, self.clock, self.curves, self.save, how, self.parallel
        )
        self.progress = loop.run()
        return self.model

    def batches(self, first: int) -> Iterator[SpeechBatch]:
        """Batches without end."""
        stream = _Stream(self, first)
        if self.options.worker:
            yield from DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=6)
        yield from stream

    def objectives(self, batch: SpeechBatch, progress: Progress, share: float) -> Iterator[Objective]:
        if self._rehearses(share) and not self.rehearsal.groups:
            self.record()
            self.clock.skip()
        with autocast(CPU):
            loss, measured = losses(self.model, batch)
        yield Objective(loss, measured, self.options.batch)
        for pictures in batch.pictures:
            with autocast(CPU):
                loss, measured = steps.losses(self.model, pictures, BESIDE[0].dense, CPU)
            yield Objective(loss, {f"typed {key}": value for key, value in measured.items()}, self.options.batch)
        for number in range(-(-A_STEP // self.parallel.size) if self._rehearses(share) else 0):
            with autocast(CPU):
                loss, measured = self.rehearsal.losses(self.model, Random(f"{progress.step}/{number}"))
            yield Objective(loss, measured, 0)

    @torch.no_grad()
    def record(self) -> None:
        """Hears what is to be rehearsed, as it is heard when answers begin to be taught."""
        workers = max(1, (os.cpu_count() or 1) // self.parallel.size) if self.options.worker else 0
        for batch in DataLoader(_Alone(self), batch_size=None, num_workers=workers):
            with autocast(CPU):
                self.rehearsal.remember(batch.rows, in_rows(self.model, batch, heard_sounds(self.model, batch)))
        show(f"{self.options.rehearse} sounds to rehearse")

    def next_index(self, batch: SpeechBatch) -> int:
        return self.parallel.next_index(batch.next_index, self.options.batch)

    def next_phase(self, progress: Progress, share: float, means: Mapping[str, float]) -> int:
        """Once answers are taught they stay: a run that goes on with more minutes does not go back to hearing."""
        return int(progress.phase or share >= self.options.hearing_until)

    def enter_phase(self, progress: Progress) -> None:
        self.answers.value = progress.phase

    def describe(self, progress: Progress) -> dict[str, float | str]:
        return {}

    def _rehearses(self, share: float) -> bool:
        """Not to the end: the ears go on learning, and what was recorded is then no longer what they say."""
        return bool(self.options.rehearse and self.answers.value) and share < DECAY_FROM

    @torch.inference_mode()
    def evaluate(self, share: float) -> dict[str, float | str]:
        """Losses on held-out speakers and words."""
        packer = SpeechPacker(Packer(Tokenizer.load(self.folder)))
        found: list[Measured] = []
        for k in range(3):
            batch = build_speech_batch(packer, k * 16, 16, 77, mix_of(self.answers.value), "heldout")
            with autocast(CPU):
                found.append({**losses(self.model, batch)[1], "word errors": word_errors_of(self.model, batch)})
                for pictures in batch.pictures[:1]:
                    typed = steps.losses(self.model, pictures, BESIDE[0].dense, CPU)[1]
                    found.append({f"typed {key}": value for key, value in typed.items()})
        return dict(mean_of(found))

    def save(self, progress: Progress) -> None:
        """The run's state, atomically."""
        notes = {"preset": self.options.preset, "command": COMMAND}
        save_state(self.options.out, make_state(self.model.state_dict(), self.optimizer, progress, **notes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=60.0, help="active minutes to train")
    parser.add_argument("--weights", type=Path, default=DEFAULT, help="a checkpoint that sees, to begin from")
    parser.add_argument("--heads", type=Path, default=HEADS, help="that were exported with it")
    parser.add_argument("--batch", type=int, default=16, help="sounds in a step of each process")
    parser.add_argument("--rate", type=float, default=1.0e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="stop after so many steps")
    parser.add_argument("--hearing-until", type=float, default=HEARING_UNTIL, help="share of the time with CTC alone")
    parser.add_argument("--warm-up", type=int, default=200, help="steps to the highest rate")
    parser.add_argument(
        "--rehearse", type=int, default=0, help="sounds heard first, for the decoder to read again and again"
    )
    parser.add_argument("--ears", type=float, default=1.0, help="share of the rate at which the ears learn")
    parser.add_argument(
        "--freeze",
        nargs="+",
        default=[],
        help="beginnings of the names of what stays as it is, as vision.",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    run = Run(Options(**vars(parser.parse_args())))
    print({part: sum(p.numel() for p in getattr(run.model, part).parameters()) for part in PARTS}, flush=True)
    run.train()


if __name__ == "__main__":
    main()
