"""Teaches a model that sees to hear and to watch: `python -m recipes.speech.train --minutes 60 --out runs/speech`.

Owns the run: first the encoder alone writes down what is said (CTC), then the adapter and the decoder answer it, and
questions about clips, with the vision part frozen. Starts from the shipped checkpoint. A killed run goes on with
`--resume`.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from recipes.checkpoint import FILE, Progress, hears, load_weights, read_shipped, read_state, restore, save_state
from recipes.export import TOKENIZER_FILES
from recipes.model import PARTS, Learner, sizes
from recipes.pack import ROWS_PER_TILE, Packer
from recipes.schedule import ActiveClock, learning_rate
from recipes.speech.rows import SpeechBatch, SpeechPacker, bank_of, build_speech_batch, draw, statistics
from recipes.steps import answers_loss, apply, half
from recipes.tiles import normalise
from recipes.train import Log
from vita.prompt.tokenizer import Tokenizer
from vita.weights.find import DEFAULT

HEARING_UNTIL = 0.4  # share of the budget with CTC alone
CTC_BESIDE = 0.3  # its weight once answers are taught
DECODER_RATE = 0.4  # of the others': it already knows how to answer
LOG_SECONDS, SAVE_SECONDS, CHECK_SECONDS = 20.0, 180.0, 300.0
STATISTICS_FROM = 200  # sounds
CPU = torch.device("cpu")
COMMAND = "python -m recipes.speech.train"


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


def losses(model: Learner, batch: SpeechBatch) -> tuple[Tensor, dict[str, float]]:
    """CTC alone, or with the answers once the batch has rows."""
    encoded, mask = model.hear(batch.banks, batch.frames)
    ctc = model.ctc_loss(encoded, mask, batch.letters, batch.spelled)
    measured = {"ctc": ctc.item()}
    if not batch.rows:
        return ctc, measured
    seen = torch.zeros(0, ROWS_PER_TILE, model.size.decoder.hidden_size)
    if len(batch.tiles):
        with torch.no_grad():
            seen = model.rows(model.patches(normalise(batch.tiles)))[batch.shown]
    part, share = answers_loss(model, batch.rows, seen, model.heard(encoded, mask, batch.frames))
    return part + CTC_BESIDE * ctc, measured | {"answer": part.item(), "token": share}


class _Stream(IterableDataset[SpeechBatch]):
    def __init__(self, run: Run, first: int) -> None:
        self.tokenizer, self.answers = run.folder, run.answers
        self.size, self.seed, self.first = run.options.batch, run.options.seed, first

    def __iter__(self) -> Iterator[SpeechBatch]:
        torch.set_num_threads(1)
        packer, first = SpeechPacker(Packer(Tokenizer.load(self.tokenizer))), self.first
        while True:
            batch = build_speech_batch(packer, first, self.size, self.seed, bool(self.answers.value))
            first = batch.next_index
            yield batch


class Run:
    """One training run in a folder."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = options.out / "tokenizer"
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            shutil.copyfile(options.start / name, self.folder / name)
        torch.manual_seed(options.seed)
        self.model = Learner(sizes(options.preset, Tokenizer.load(self.folder).size))
        load_weights(self.model, read_shipped(options.start))
        if not hears(self.model.state_dict()):
            self._measure()
        self.model.use_fast_attention()
        self.optimizer = self._optimizer()
        self.progress = Progress()
        if options.resume and (options.out / FILE).exists():
            self.progress = restore(read_state(options.out), self.model, self.optimizer)
        self.answers = multiprocessing.Value(ctypes.c_int, 0, lock=False)
        self.log = Log(options.out)

    def _measure(self) -> None:
        """The statistics that normalise every filterbank."""
        sounds = [draw(k, "train", 0, answers=False).sound for k in range(STATISTICS_FROM)]
        banks = [bank_of(sound.samples) for sound in sounds if sound is not None]
        self.model.audio.cmvn_mean.data, self.model.audio.cmvn_istd.data = statistics(banks)

    def _optimizer(self) -> torch.optim.AdamW:
        groups = []
        for parts, factor in ((("audio", "adapter", "ctc"), 1.0), (("decoder",), DECODER_RATE)):
            for matrices in (True, False):
                chosen = [
                    p
                    for part in parts
                    for n, p in getattr(self.model, part).named_parameters()
                    if (p.dim() > 1) == matrices and not n.startswith("cmvn_")
                ]
                groups.append({"params": chosen, "weight_decay": 0.03 if matrices else 0.0, "factor": factor})
        for part in ("vision", "projector", "dense"):
            getattr(self.model, part).requires_grad_(False)
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)

    def batches(self) -> Iterator[SpeechBatch]:
        """Batches without end."""
        stream = _Stream(self, self.progress.index)
        if self.options.worker:
            yield from DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=6)
        yield from stream

    def train(self) -> Learner:
        """Until the budget is spent."""
        clock = ActiveClock(self.options.minutes, self.progress.spent)
        self.answers.value = int(self.progress.spent / clock.budget >= self.options.hearing_until)
        logged = saved = checked = time.monotonic()
        for batch in self.batches():
            share = clock.tick()
            if share >= 1 or self.progress.step == self.options.steps:
                break
            self.answers.value = int(share >= self.options.hearing_until)
            self._step(batch, share)
            self.progress = Progress(self.progress.step + 1, batch.next_index, clock.spent)
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

    def _step(self, batch: SpeechBatch, share: float) -> None:
        with half(CPU):
            loss, measured = losses(self.model, batch)
        rate = learning_rate(self.options.rate, self.progress.step, share, self.options.warm_up)
        measured["norm"] = apply(self.model, self.optimizer, loss, rate)
        self.log.add(measured, self.options.batch)

    @torch.inference_mode()
    def check(self, share: float) -> dict[str, float]:
        """Losses on held-out speakers and words."""
        packer = SpeechPacker(Packer(Tokenizer.load(self.folder)))
        totals: dict[str, float] = {}
        for k in range(3):
            batch = build_speech_batch(packer, k * 16, 16, 77, bool(self.answers.value), "heldout")
            with half(CPU):
                measured = losses(self.model, batch)[1]
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
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    run = Run(Options(**vars(parser.parse_args())))
    print({part: sum(p.numel() for p in getattr(run.model, part).parameters()) for part in PARTS}, flush=True)
    run.train()


if __name__ == "__main__":
    main()
