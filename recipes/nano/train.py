"""Trains the embedded model: `python -m recipes.nano.train --minutes 85 --out runs/first`.

Owns the run: the loop, its log, held-out checks and when to save. A killed run goes on with `--resume`, and a
stopped process (SIGSTOP) loses no budget. The same command runs on a CPU and on CUDA.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from recipes.nano.checkpoint import (
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
from recipes.nano.feed import Batch, Feed, build_batch
from recipes.nano.model import Learner, sizes
from recipes.nano.pack import Packer
from recipes.nano.plots import draw_curves
from recipes.nano.schedule import CURRICULUM, TINY, ActiveClock, Phase, learning_rate, next_phase
from recipes.nano.steps import apply, half, losses, make_optimizer
from recipes.nano.tokenizer import build_tokenizer
from vita.prompt.tokenizer import Tokenizer

LOG_SECONDS = 20.0
SAVE_SECONDS = 180.0
CHECK_SECONDS = 300.0
CHECK_SAMPLES = 48
COMMAND = "python -m recipes.nano.train"
_SMOOTH = 0.05  # weight of a new value in the log's running means


@dataclass(frozen=True)
class Options:
    """What the command line sets."""

    out: Path
    minutes: float
    batch: int = 16
    rate: float = 1.2e-3
    seed: int = 1
    tiny: bool = False
    resume: bool = False
    device: str = "cpu"
    worker: bool = True
    steps: int | None = None  # stop after so many, whatever the time
    weights: Path | None = None  # a state to take the first weights from
    start: int = 0  # the phase to begin with
    warm_up: int = 150  # steps


@dataclass
class Log:
    """Running means, printed now and then and kept in `curves.jsonl`."""

    folder: Path
    means: dict[str, float] = field(default_factory=dict)
    pictures: int = 0
    since: float = field(default_factory=time.monotonic)

    def add(self, measured: dict[str, float], pictures: int) -> None:
        self.pictures += pictures
        for key, value in measured.items():
            old = self.means.get(key, value)
            self.means[key] = old + _SMOOTH * (value - old)

    def write(self, kind: str, record: dict[str, float | str]) -> None:
        """One line on the screen and one in the file."""
        shown = " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
        print(f"{time.strftime('%H:%M:%S')} {kind} {shown}", flush=True)
        with (self.folder / "curves.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"kind": kind, **record}) + "\n")

    def speed(self) -> float:
        """Samples a second since the last call."""
        now = time.monotonic()
        rate = self.pictures / max(1e-9, now - self.since)
        self.pictures, self.since = 0, now
        return rate


def first_weights(source: Path) -> dict[str, torch.Tensor]:
    """Of a run's state, or of an exported checkpoint's folder."""
    if source.is_dir():
        return read_shipped(source)
    state: dict[str, dict[str, torch.Tensor]] = torch.load(source, map_location="cpu", weights_only=True)
    return state["model"]


def tokenizer_of(source: Path) -> Tokenizer:
    """The one that first weights were trained with: a run keeps its own beside its state."""
    return Tokenizer.load(source if source.is_dir() else source.parent / "tokenizer")


class Run:
    """One training run in a folder."""

    def __init__(self, options: Options) -> None:
        self.options = options
        options.out.mkdir(parents=True, exist_ok=True)
        folder = options.out / "tokenizer"
        if not (folder / "tokenizer.json").exists():
            build_tokenizer(folder)
        self.tokenizer = Tokenizer.load(folder)
        self.packer = Packer(self.tokenizer)
        self.phases: tuple[Phase, ...] = TINY if options.tiny else CURRICULUM
        weights = {} if options.weights is None else first_weights(options.weights)
        # Ears that the first weights bring along stay as they are.
        self.preset = "tiny" if options.tiny else "hearing" if hears(weights) else "small"
        self.device = torch.device(options.device)
        torch.manual_seed(options.seed)
        self.model = Learner(sizes(self.preset, self.tokenizer.size)).to(self.device)
        self.optimizer = make_optimizer(self.model)
        self.progress = Progress(phase=options.start)
        if weights and options.weights is not None:
            load_weights(self.model, carried(weights, tokenizer_of(options.weights), self.tokenizer))
        if options.resume and (options.out / FILE).exists():
            self.progress = restore(read_state(options.out), self.model, self.optimizer)
        self.feed = Feed(folder, self.phases, options.batch, options.seed, worker=options.worker)
        self.log = Log(options.out)

    def train(self) -> Learner:
        """Until the budget is spent; leaves state, curves and their plot in the run's folder."""
        if self.device.type == "cpu":
            self.model.use_fast_attention()
        self._loop()
        self.save()
        draw_curves(self.options.out / "curves.jsonl", self.options.out / "curves.png")
        return self.model

    def _loop(self) -> None:
        clock = ActiveClock(self.options.minutes, self.progress.spent)
        self.feed.phase.value = self.progress.phase
        logged = saved = checked = time.monotonic()
        for batch in self.feed.batches(self.progress.index):
            share = clock.tick()
            if share >= 1 or self.progress.step == self.options.steps:
                return
            phase = self.phases[batch.phase]
            with half(self.device):
                loss, measured = losses(self.model, batch, phase.dense, self.device, eyes=phase.eyes)
            rate = learning_rate(self.options.rate, self.progress.step, share, self.options.warm_up)
            measured["norm"] = apply(self.model, self.optimizer, loss, rate)
            self.log.add(measured, self.options.batch)
            self._advance(batch, clock)
            now = time.monotonic()
            if now - logged >= LOG_SECONDS:
                logged = now
                self._report(phase.name, share, rate)
            if now - saved >= SAVE_SECONDS:
                saved = now
                self.save()
            if now - checked >= CHECK_SECONDS:
                checked = now
                self.check(batch.phase, share)
                clock.skip()

    def _advance(self, batch: Batch, clock: ActiveClock) -> None:
        """Count the step, and choose the phase that the feed draws from next."""
        old = self.progress
        wanted = next_phase(
            self.phases, old.phase, clock.spent / clock.budget, self.log.means.get("char", 0.0), old.step - old.since
        )
        since = old.step if wanted != old.phase else old.since
        self.progress = Progress(old.step + 1, batch.next_index, clock.spent, wanted, since)
        self.feed.phase.value = wanted

    def _report(self, phase: str, share: float, rate: float) -> None:
        place: dict[str, float | str] = {"share": round(share, 4), "phase": phase, "step": str(self.progress.step)}
        self.log.write("train", {**place, "speed": self.log.speed(), "rate": rate, **self.log.means})

    @torch.inference_mode()
    def check(self, number: int, share: float) -> dict[str, float]:
        """Losses and accuracies on held-out samples of the current phase, without teaching."""
        totals: dict[str, float] = {}
        count = max(1, CHECK_SAMPLES // self.options.batch)
        for k in range(count):
            batch = build_batch(
                self.packer, self.phases, number, k * self.options.batch, self.options.batch, 77, "heldout"
            )
            with half(self.device):
                measured = losses(self.model, batch, 1.0, self.device)[1]
            for key, value in measured.items():
                totals[key] = totals.get(key, 0.0) + value / count
        self.log.write("heldout", {"share": round(share, 4), "phase": self.phases[number].name, **totals})
        return totals

    def save(self) -> None:
        """The run's state, atomically."""
        save_state(self.options.out, self.model, self.optimizer, self.progress, self.preset, COMMAND)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=85.0, help="active minutes to train")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="stop after so many steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="the tests' size: learns colours in under a minute")
    parser.add_argument("--weights", type=Path, help="a state.pt or a checkpoint folder to begin from")
    parser.add_argument("--start", type=int, default=0, help="number of the phase to begin with")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    run = Run(Options(**vars(parser.parse_args())))
    counts = {n: sum(p.numel() for p in part.parameters()) for n, part in run.model.named_children()}
    print(f"parameters {counts}, vocabulary {run.tokenizer.size}", flush=True)
    run.train()


if __name__ == "__main__":
    main()
