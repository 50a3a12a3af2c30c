"""Teaches a model that sees to hear and to watch: `python -m recipes.nano.speech.train --out runs/speech`.

Owns the run: first the audio encoder alone writes down what is said (CTC), then everything is taught together, a batch
of sounds and clips, batches of pictures and, if wanted, of sounds rehearsed (`recipes.nano.speech.rehearsal`) in turn.
Starts from the shipped checkpoint. A killed run goes on with `--resume`.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from recipes.nano import steps
from recipes.nano.checkpoint import (
    EARS,
    FILE,
    Progress,
    carried,
    hears,
    load_weights,
    read_shipped,
    read_state,
    restore,
    save_state,
)
from recipes.nano.model import MOST_WORDS, PARTS, Heard, Learner, ctc_loss, sizes
from recipes.nano.pack import IGNORE, ROWS_PER_TILE, Packer
from recipes.nano.schedule import DECAYS, ActiveClock, learning_rate
from recipes.nano.senses import word_errors
from recipes.nano.speech.rehearsal import A_STEP, Rehearsal
from recipes.nano.speech.rows import (
    BESIDE,
    Mix,
    Sounds,
    SpeechBatch,
    SpeechPacker,
    bank_of,
    build_speech_batch,
    draw,
    statistics,
)
from recipes.nano.steps import answers_loss, apply, half
from recipes.nano.tiles import normalise
from recipes.nano.tokenizer import build_tokenizer
from recipes.nano.train import Log
from vita.checkpoint.files import DEFAULT
from vita.prompt.tokenizer import Tokenizer

HEARING_UNTIL = 0.4  # share of the budget with CTC alone
CTC_BESIDE = 0.3  # its weight once answers are taught
# What is trained at which share of the rate: what sees and answers knows its trade already.
RATES = {EARS: 1.0, ("vision.", "projector.", "dense."): 0.7, ("decoder.",): 0.8}
LOG_SECONDS, SAVE_SECONDS, CHECK_SECONDS = 20.0, 180.0, 300.0
STATISTICS_FROM = 200  # sounds
CPU = torch.device("cpu")
RECORDED, APART = 16, 7  # sounds to rehearse in one batch; their seed's distance from the others'
COMMAND = "python -m recipes.nano.speech.train"


@dataclass(frozen=True)
class Options:
    """What the command line sets."""

    out: Path
    minutes: float
    start: Path = DEFAULT
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


def losses(model: Learner, batch: SpeechBatch) -> tuple[Tensor, dict[str, float]]:
    """CTC of letters, words and their numbers alone, or with the answers once the batch has rows."""
    pairs = heard_sounds(model, batch)
    letters = _mean([(ctc_loss(h.letters, h.mask, g.letters, g.spelled), g.spelled) for h, g in pairs])
    words = _mean([(ctc_loss(h.words, h.mask, g.words, g.worded), g.worded) for h, g in pairs])
    # While answers are not taught, what says a word stays as it is: rows come to it, not it to the rows.
    head = model.decoder.head.weight if batch.rows else model.decoder.head.weight.detach()
    reading = _mean([(reading_loss(model, h, g, head), g.worded) for h, g in pairs])
    written = letters + words + reading
    measured = {"letters": letters.item(), "words": words.item(), "reading": reading.item()}
    if not batch.rows:
        return written, measured
    seen = torch.zeros(0, ROWS_PER_TILE, model.size.decoder.hidden_size)
    if len(batch.tiles):
        with torch.no_grad():
            seen = model.rows(model.patches(normalise(batch.tiles)))[batch.shown]
    part, share = answers_loss(model, batch.rows, seen, in_rows(model, batch, pairs))
    return part + CTC_BESIDE * written, measured | {"answer": part.item(), "token": share}


def heard_sounds(model: Learner, batch: SpeechBatch) -> list[tuple[Heard, Sounds]]:
    """What the ears make of each group of sounds."""
    return [(model.hear(group.banks, group.frames), group) for group in batch.sounds]


def in_rows(model: Learner, batch: SpeechBatch, pairs: Sequence[tuple[Heard, Sounds]]) -> Tensor:
    """What the decoder hears, in the order of the batch's rows: `[tokens, H]`."""
    heard = [rows for h, g in pairs for rows in model.heard(h, g.frames)]
    none = torch.zeros(0, model.size.decoder.hidden_size)
    return torch.cat([none, *(heard[k] for k in batch.place.tolist())])


def numbers(logits: Tensor, mask: Tensor, words: Tensor, worded: Tensor) -> Tensor:
    """Which word of its sentence stands in each frame: int64 `[sounds, T']`, 0 where none does.

    CTC writes a word wherever it likes, so the frames are those where it does write now, of the sounds that it writes
    without a mistake.
    """
    target = torch.zeros_like(mask, dtype=torch.long)
    truths = words.split(worded.tolist())
    for row, line, real, truth in zip(target, logits.argmax(-1), mask, truths, strict=True):
        said = torch.where(real, line, 0)
        begins = (said != 0) & (said != torch.nn.functional.pad(said[:-1], (1, 0)))
        if len(truth) <= MOST_WORDS and torch.equal(said[begins], truth):
            row.copy_(torch.where(said != 0, begins.cumsum(0), 0))
    return target


def reading_loss(model: Learner, heard: Heard, sounds: Sounds, head: Tensor) -> Tensor:
    """What makes words easy to read off for the decoder, where they are written down now.

    Each has its number in the sentence, so that one can be asked for after the other; and its decoder row looks like
    the output that says it, so that saying it is copying, for words that are seldom said as for any other.
    """
    target = numbers(heard.words, heard.mask, sounds.words, sounds.worded)
    there = target > 0
    if not there.any():
        return torch.zeros(())
    numbered = torch.nn.functional.cross_entropy(heard.places[there].float(), target[there])
    line, frame = there.nonzero(as_tuple=True)
    before = sounds.worded.cumsum(0) - sounds.worded
    tokens = sounds.tokens[before[line] + target[there] - 1]
    norm = model.decoder.norm
    rows = torch.nn.functional.rms_norm(heard.rows[line, frame // 2].float(), norm.weight.shape, norm.weight.detach())
    logits = torch.nn.functional.linear(rows, head).float()
    named = torch.nn.functional.cross_entropy(logits, tokens, ignore_index=IGNORE, reduction="sum")
    return numbered + named / (tokens != IGNORE).sum().clamp(min=1)


def _mean(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Of the groups' losses, by the sounds in each that say something."""
    said = torch.tensor([int((counts > 0).sum()) for _, counts in parts])
    if not said.any():
        return torch.zeros(())
    return torch.stack([loss * n for (loss, _), n in zip(parts, said, strict=True) if n]).sum() / said.sum()


def word_errors_of(model: Learner, batch: SpeechBatch) -> float:
    """Word error rate of what the audio encoder itself writes down, greedily."""
    errors = words = 0
    for group in batch.sounds:
        sounds = model.hear(group.banks, group.frames)
        truths = group.words.split(group.worded.tolist())
        for line, mask, truth in zip(sounds.words.argmax(-1), sounds.mask, truths, strict=True):
            said = [int(k) for k in line[mask].unique_consecutive() if k] if len(truth) else []
            errors += word_errors(" ".join(map(str, truth.tolist())), " ".join(map(str, said)))
            words += len(truth)
    return errors / max(1, words)


class _Stream(IterableDataset[SpeechBatch]):
    """Everything, or what is only heard, without end."""

    def __init__(self, run: Run, first: int) -> None:
        self.tokenizer, self.answers = run.folder, run.answers
        self.size, self.seed, self.first = run.options.batch, run.options.seed, first

    def __iter__(self) -> Iterator[SpeechBatch]:
        torch.set_num_threads(1)
        packer, first = SpeechPacker(Packer(Tokenizer.load(self.tokenizer))), self.first
        while True:
            batch = build_speech_batch(packer, first, self.size, self.seed, mix_of(self.answers.value))
            first = batch.next_index
            yield batch


class _Alone(Dataset[SpeechBatch]):
    """Sounds to be rehearsed, by number."""

    def __init__(self, run: Run) -> None:
        self.packer = SpeechPacker(Packer(Tokenizer.load(run.folder)))
        self.seed, self.count = run.options.seed + APART, run.options.rehearse

    def __len__(self) -> int:
        return -(-self.count // RECORDED)

    def __getitem__(self, number: int) -> SpeechBatch:
        return build_speech_batch(self.packer, number * RECORDED, RECORDED, self.seed, "alone")


def mix_of(answers: int) -> Mix:
    """What a batch is drawn from."""
    return "everything" if answers else "hearing"


class Run:
    """One training run in a folder."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = options.out / "tokenizer"
        if not (self.folder / "tokenizer.json").exists():
            build_tokenizer(self.folder)
        torch.manual_seed(options.seed)
        tokenizer = Tokenizer.load(self.folder)
        self.model = Learner(sizes(options.preset, tokenizer.size))
        weights = carried(read_shipped(options.start), Tokenizer.load(options.start), tokenizer)
        load_weights(self.model, weights)
        if not hears(self.model.state_dict()):
            self._measure()
        self.model.use_fast_attention()
        self.optimizer = self._optimizer()
        self.progress = Progress()
        if options.resume and (options.out / FILE).exists():
            self.progress = restore(read_state(options.out), self.model, self.optimizer)
        self.answers = multiprocessing.Value(ctypes.c_int, 0, lock=False)
        self.log = Log(options.out)
        self.rehearsal = Rehearsal()

    def _measure(self) -> None:
        """The statistics that normalise every filterbank."""
        sounds = [draw(k, "train", 0, "hearing").sound for k in range(STATISTICS_FROM)]
        banks = [bank_of(sound.samples) for sound in sounds if sound is not None]
        self.model.audio.cmvn_mean.data, self.model.audio.cmvn_istd.data = statistics(banks)

    def _optimizer(self) -> torch.optim.AdamW:
        groups = []
        for parts, factor in RATES.items():
            for matrices in (True, False):
                named = [(n, p) for n, p in self.model.named_parameters() if n.startswith(parts) and "cmvn_" not in n]
                chosen = [p for _, p in named if (p.dim() > 1) == matrices]
                groups.append({"params": chosen, "weight_decay": 0.03 if matrices else 0.0, "factor": factor})
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)

    def batches(self) -> Iterator[SpeechBatch]:
        """Batches without end."""
        stream = _Stream(self, self.progress.index)
        if self.options.worker:
            yield from DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=6)
        yield from stream

    @torch.no_grad()
    def record(self) -> None:
        """Hears what is to be rehearsed, as it is heard when answers begin to be taught."""
        workers = os.cpu_count() or 1 if self.options.worker else 0
        for batch in DataLoader(_Alone(self), batch_size=None, num_workers=workers):
            with half(CPU):
                self.rehearsal.remember(batch.rows, in_rows(self.model, batch, heard_sounds(self.model, batch)))
        print(f"{self.options.rehearse} sounds to rehearse", flush=True)

    def train(self) -> Learner:
        """Until the budget is spent."""
        clock = ActiveClock(self.options.minutes, self.progress.spent)
        self._answering(self.progress.spent / clock.budget)
        logged = saved = checked = time.monotonic()
        for batch in self.batches():
            share = clock.tick()
            if share >= 1 or self.progress.step == self.options.steps:
                break
            self._answering(share)
            if self._rehearses(share) and not self.rehearsal.groups:
                self.record()
                clock.skip()
            self._step(batch, share)
            old = self.progress
            self.progress = Progress(old.step + 1, batch.next_index, clock.spent, old.phase, old.since)
            now = time.monotonic()
            if now - logged >= LOG_SECONDS:
                logged = now
                place: dict[str, float | str] = {"share": round(share, 4), "step": str(self.progress.step)}
                self.log.write("train", {**place, "speed": self.log.speed(), **self.log.means})
            if now - saved >= SAVE_SECONDS:
                saved = now
                self.save()
            if now - checked >= CHECK_SECONDS:
                checked = now
                self.check(share)
                clock.skip()
        self.save()
        return self.model

    def _answering(self, share: float) -> None:
        """Once answers are taught they stay: a run that goes on with more minutes does not go back to hearing."""
        if not self.progress.phase and share >= self.options.hearing_until:
            self.progress.phase, self.progress.since = 1, self.progress.step
        self.answers.value = self.progress.phase

    def _step(self, batch: SpeechBatch, share: float) -> None:
        rate = learning_rate(self.options.rate, self.progress.step - self.progress.since, share, self.options.warm_up)
        with half(CPU):
            loss, measured = losses(self.model, batch)
        measured["norm"] = apply(self.model, self.optimizer, loss, rate)
        self.log.add(measured, self.options.batch)
        for pictures in batch.pictures:
            with half(CPU):
                loss, measured = steps.losses(self.model, pictures, BESIDE[0].dense, CPU)
            measured["norm"] = apply(self.model, self.optimizer, loss, rate)
            self.log.add({f"typed {key}": value for key, value in measured.items()}, self.options.batch)
        for number in range(A_STEP if self._rehearses(share) else 0):
            with half(CPU):
                loss, measured = self.rehearsal.losses(self.model, Random(f"{self.progress.step}/{number}"))
            apply(self.model, self.optimizer, loss, rate)
            self.log.add(measured, 0)

    def _rehearses(self, share: float) -> bool:
        """Not to the end: the ears go on learning, and what was recorded is then no longer what they say."""
        return bool(self.options.rehearse and self.progress.phase) and share < DECAYS

    @torch.inference_mode()
    def check(self, share: float) -> dict[str, float]:
        """Losses on held-out speakers and words."""
        packer = SpeechPacker(Packer(Tokenizer.load(self.folder)))
        totals: dict[str, float] = {}
        for k in range(3):
            batch = build_speech_batch(packer, k * 16, 16, 77, mix_of(self.answers.value), "heldout")
            with half(CPU):
                measured = losses(self.model, batch)[1]
                measured["word errors"] = word_errors_of(self.model, batch)
                for pictures in batch.pictures[:1]:
                    typed = steps.losses(self.model, pictures, BESIDE[0].dense, CPU)[1]
                    measured |= {f"typed {key}": value for key, value in typed.items()}
            totals = {key: totals.get(key, 0.0) + value / 3 for key, value in measured.items()}
        self.log.write("heldout", {"share": round(share, 4), **totals})
        return totals

    def save(self) -> None:
        """The run's state, atomically."""
        save_state(self.options.out, self.model, self.optimizer, self.progress, self.options.preset, COMMAND)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=60.0, help="active minutes to train")
    parser.add_argument("--start", type=Path, default=DEFAULT, help="checkpoint that sees")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.0e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="stop after so many steps")
    parser.add_argument("--hearing-until", type=float, default=HEARING_UNTIL, help="share of the time with CTC alone")
    parser.add_argument("--warm-up", type=int, default=200, help="steps to the highest rate")
    parser.add_argument(
        "--rehearse", type=int, default=0, help="sounds heard first, for the decoder to read again and again"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    run = Run(Options(**vars(parser.parse_args())))
    print({part: sum(p.numel() for p in getattr(run.model, part).parameters()) for part in PARTS}, flush=True)
    run.train()


if __name__ == "__main__":
    main()
