"""Teaches the embedded model to see, on CPUs over hours: `python -m recipes.nano.pictures --out runs/first`.

Owns the task: batches, losses, phases and held-out checks; the loop is `vita.train.loop`. A killed run goes on with
`--resume`, and a stopped process (SIGSTOP) loses no budget. `recipes.nano.train` does everything at once on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from recipes.nano.checkpoint import EARS, HEADS, carried, hears, load_weights, read_shipped
from recipes.nano.feed import Batch, Feed, build_batch
from recipes.nano.model import Learner, sizes
from recipes.nano.pack import Packer
from recipes.nano.plots import draw_curves
from recipes.nano.schedule import CURRICULUM, TINY, Phase, next_phase
from recipes.nano.steps import losses
from recipes.nano.tokenizer import tokenizer_in
from vita.prompt.tokenizer import Tokenizer
from vita.train.checkpoint import FILE, Progress, make_state, read_state, restore, save_state
from vita.train.curves import Curves, mean_of
from vita.train.loop import Loop, LoopOptions, Objective
from vita.train.optimizer import autocast, freeze, make_adamw
from vita.train.schedule import ActiveClock

CHECK_SAMPLES = 48
COMMAND = "python -m recipes.nano.pictures"


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
    heads: Path = HEADS  # that were exported with a checkpoint folder
    start: int = 0  # the phase to begin with
    warm_up: int = 150  # steps
    freeze: Sequence[str] = ()  # beginnings of the names of parameters that stay as they are


def first_weights(source: Path, heads: Path = HEADS) -> dict[str, torch.Tensor]:
    """Of a run's state, or of an exported checkpoint's folder."""
    if source.is_dir():
        return read_shipped(source, heads)
    state: dict[str, dict[str, torch.Tensor]] = torch.load(source, map_location="cpu", weights_only=True)
    return state["model"]


def show(line: str) -> None:
    """Print at once."""
    print(line, flush=True)


def tokenizer_of(source: Path) -> Tokenizer:
    """The one that first weights were trained with: a run keeps its own beside its state."""
    return Tokenizer.load(source if source.is_dir() else source.parent / "tokenizer")


class Run:
    """One training run in a folder: the task of `vita.train.loop`."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tokenizer = tokenizer_in(options.out)
        self.packer = Packer(self.tokenizer)
        self.phases: tuple[Phase, ...] = TINY if options.tiny else CURRICULUM
        weights = {} if options.weights is None else first_weights(options.weights, options.heads)
        # Ears that the first weights bring along stay as they are, too.
        self.preset = "tiny" if options.tiny else "hearing" if hears(weights) else "small"
        self.device = torch.device(options.device)
        torch.manual_seed(options.seed)
        self.model = Learner(sizes(self.preset, self.tokenizer.size)).to(self.device)
        freeze(self.model, (*EARS, *options.freeze))
        self.optimizer = make_adamw(self.model)
        self.progress = Progress(phase=options.start)
        if weights and options.weights is not None:
            load_weights(self.model, carried(weights, tokenizer_of(options.weights), self.tokenizer))
        if options.resume and (options.out / FILE).exists():
            self.progress = restore(read_state(options.out), self.model, self.optimizer)
        folder = options.out / "tokenizer"
        self.feed = Feed(folder, self.phases, options.batch, options.seed, worker=options.worker)
        self.curves = Curves(options.out, show)

    def train(self) -> Learner:
        """Until the budget is spent; leaves state, curves and their plot in the run's folder."""
        if self.device.type == "cpu":
            self.model.use_fast_attention()
        options = self.options
        clock = ActiveClock(options.minutes, self.progress.spent)
        how = LoopOptions(options.rate, options.warm_up, steps=options.steps)
        loop = Loop(self, self.model.parameters(), self.optimizer, self.progress, clock, self.curves, self.save, how)
        self.progress = loop.run()
        draw_curves(options.out / "curves.jsonl", options.out / "curves.png")
        return self.model

    def batches(self, first: int) -> Iterator[Batch]:
        return self.feed.batches(first)

    def objectives(self, batch: Batch, progress: Progress, share: float) -> Iterator[Objective]:
        phase = self.phases[batch.phase]
        with autocast(self.device):
            loss, measured = losses(self.model, batch, phase.dense, self.device, eyes=phase.eyes)
        yield Objective(loss, measured, self.options.batch)

    def next_index(self, batch: Batch) -> int:
        return batch.next_index

    def next_phase(self, progress: Progress, share: float, means: Mapping[str, float]) -> int:
        steps_in = progress.step - progress.since
        return next_phase(self.phases, progress.phase, share, means.get("char", 0.0), steps_in)

    def enter_phase(self, progress: Progress) -> None:
        self.feed.phase.value = progress.phase

    def describe(self, progress: Progress) -> dict[str, float | str]:
        return {"phase": self.phases[progress.phase].name}

    @torch.inference_mode()
    def evaluate(self, share: float) -> dict[str, float | str]:
        """Losses and accuracies on held-out samples of the current phase, without teaching."""
        number = self.feed.phase.value
        found = []
        for k in range(max(1, CHECK_SAMPLES // self.options.batch)):
            first = k * self.options.batch
            batch = build_batch(self.packer, self.phases, number, first, self.options.batch, 77, "heldout")
            with autocast(self.device):
                found.append(losses(self.model, batch, 1.0, self.device)[1])
        return {"phase": self.phases[number].name, **mean_of(found)}

    def save(self, progress: Progress) -> None:
        """The run's state, atomically."""
        notes = {"preset": self.preset, "command": COMMAND}
        save_state(self.options.out, make_state(self.model.state_dict(), self.optimizer, progress, **notes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=85.0, help="active minutes to train")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=150, help="steps to the highest rate")
    parser.add_argument("--steps", type=int, help="stop after so many steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="the tests' size: learns colours in under a minute")
    parser.add_argument("--weights", type=Path, help="a state.pt or a checkpoint folder to begin from")
    parser.add_argument("--heads", type=Path, default=HEADS, help="that were exported with the checkpoint folder")
    parser.add_argument("--start", type=int, default=0, help="number of the phase to begin with")
    parser.add_argument(
        "--freeze", nargs="+", default=[], help="beginnings of the names of what stays as it is, as vision."
    )
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    run = Run(Options(**vars(parser.parse_args())))
    counts = {n: sum(p.numel() for p in part.parameters()) for n, part in run.model.named_children()}
    print(f"parameters {counts}, vocabulary {run.tokenizer.size}", flush=True)
    run.train()


if __name__ == "__main__":
    main()
