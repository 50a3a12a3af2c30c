"""Everything at once in minutes: `python -m recipes.nano.train --minutes 8 --device cuda --out runs/gpu`.

Owns the run: what it is made with, its processes, its state each minute, an evaluation at the end, and that it ends in
time. Drawing processes feed the device through shared memory; the loop is `vita.train.loop`. A killed run goes on with
`--resume`, with the same data in the same order.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from recipes.nano.checkpoint import HEADS, carried, load_weights, read_shipped
from recipes.nano.data.studio import studio
from recipes.nano.everything import MakeBuilder, Shape, held_out, phases
from recipes.nano.losses import ON_HOST, Batch, losses, on_device, tensor_of
from recipes.nano.model import PARTS, Learner, sizes
from recipes.nano.pictures import show
from recipes.nano.plots import draw_curves
from recipes.nano.schedule import next_phase
from recipes.nano.speech.rows import statistics
from recipes.nano.speech.voices_here import voices_here
from recipes.nano.tokenizer import tokenizer_in
from recipes.nano.trial import Plan, choose, prepare, run_trial
from recipes.nano.watchdog import Watchdog, process_age
from vita.prompt.tokenizer import Tokenizer
from vita.train.checkpoint import Progress, has_shards, make_state, read_shards, restore, save_shards, trained_state
from vita.train.curves import Curves, mean_of
from vita.train.feed import Order, SharedFeed
from vita.train.loop import Loop, LoopOptions, Objective
from vita.train.optimizer import autocast, make_adamw
from vita.train.schedule import WallClock

COMMAND = "python -m recipes.nano.train"
PLAN = "plan.json"
SAVE_SECONDS, LOG_SECONDS, HELD_SECONDS = 60.0, 10.0, 60.0
EVALUATION, LAST = 40.0, 4.0  # seconds kept for the evaluation, and between the watchdog and the limit
READ_EVERY = 8  # steps between two looks at what a GPU measured
ON_GPU = Shape()
ON_CPU = Shape(tiles=16, sequences=4, sounds=4)
WIDTHS = ("nano12", "nano10", "hearing")


@dataclass(frozen=True)
class Options:
    """What the command line sets.

    Attributes:
        out: folder of the run.
        minutes: of the whole run.
        limit: minutes of this call; by default all.
        device: "cpu" or "cuda".
        workers: drawing processes; by default one less than there are cores.
        preset: of the model; by default measured on a GPU.
        mode: "eager", "compile" or "auto".
        factor: on the batch; by default measured.
        repeats: how often a batch is trained; by default measured.
        trial: seconds for measuring.
        rate, warm_up, seed, steps: as in `recipes.nano.pictures`.
        tiny: the tests' size and phases.
        weights: a checkpoint to begin from.
        heads: that were exported with it.
        evaluation: seconds kept for the evaluation at the end.
        resume: go on from the folder's state.
    """

    out: Path
    minutes: float = 8.0
    limit: float | None = None
    device: str = "cpu"
    workers: int | None = None
    preset: str | None = None
    mode: str = "auto"
    factor: float | None = None
    repeats: int | None = None
    trial: float = 20.0
    rate: float = 1.5e-3
    warm_up: int = 150
    seed: int = 1
    steps: int | None = None
    tiny: bool = False
    weights: Path | None = None
    heads: Path = HEADS
    evaluation: float = EVALUATION
    resume: bool = False

    @property
    def seconds(self) -> float:
        """Of this call."""
        return 60 * (self.minutes if self.limit is None else self.limit)


class Run:
    """One run in a folder: the task of `vita.train.loop`.

    Args:
        options: of the command line.
        began: `time.monotonic()` when the call began; its limit counts from there.
        shape: of batches of factor 1; by default by device.
    """

    def __init__(self, options: Options, began: float, shape: Shape | None = None) -> None:
        self.options, self.began = options, began
        self.tokenizer = tokenizer_in(options.out)
        self.device = torch.device(options.device)
        self.phases = phases(tiny=options.tiny)
        studio()  # the fonts are looked at once, before processes are forked
        self.plan = self._planned(shape)
        torch.manual_seed(options.seed)
        # Processes are forked before CUDA starts here.
        make = MakeBuilder(options.out / "tokenizer", self.plan.shape, self.phases, options.seed)
        order = Order(self.plan.block, self.plan.repeats, options.seed)
        self.feed = SharedFeed(make, self.plan.shape.bytes, order, self.workers)
        state = read_shards(options.out) if options.resume and has_shards(options.out) else None
        self.progress = Progress(**state["progress"]) if state else Progress()
        self.feed.start(self.progress.index, self.progress.starts)
        self.model = Learner(sizes(self.plan.preset, self.tokenizer.size))
        if state is None:
            self._first_weights()
        self.model.to(self.device)
        self.optimizer = make_adamw(self.model)
        self.anew = state is not None and "optimizer" not in state  # only the weights were brought along
        if state is not None:
            restore(state, self.model, None if self.anew else self.optimizer)
            show(f"goes on from step {self.progress.step}" + (", with new moments" if self.anew else ""))
        if self.anew:
            self.progress.since = self.progress.step  # the rate warms up again
        prepare(self.model, self.plan.mode)
        self._held_out: Batch | None = None
        self.curves = Curves(options.out, show, hold=READ_EVERY if self.device.type == "cuda" else 1)

    @property
    def workers(self) -> int:
        """Drawing processes."""
        return self.options.workers or max(1, (os.cpu_count() or 2) - 1)

    def _planned(self, shape: Shape | None) -> Plan:
        """The plan that the run began with, or a new one."""
        file, options = self.options.out / PLAN, self.options
        if options.resume and file.exists():
            return Plan.load(file)
        gpu = options.device != "cpu"
        base = Plan(
            preset=options.preset or ("tiny-hearing" if options.tiny else WIDTHS[0] if gpu else "hearing"),
            shape=shape or (ON_GPU if gpu else ON_CPU), mode="eager" if options.mode == "auto" else options.mode,
            repeats=options.repeats or 1, block=8 if gpu else 2,
        )  # fmt: skip
        if not voices_here():
            show("no voice is installed on this machine: the run is silent")
            base = replace(base, shape=replace(base.shape, sounds=0))
        plan = self._measured(base, gpu) if options.trial else base
        plan.save(file)
        show(f"plan {plan}")
        return plan

    def _measured(self, base: Plan, gpu: bool) -> Plan:
        options = self.options
        presets = [base.preset] if options.preset or not gpu or options.tiny else list(WIDTHS)
        modes = ["eager", "compile"] if gpu and options.mode == "auto" else [base.mode]
        factors = [options.factor] if options.factor else [1.0, 2.0, 0.5] if gpu else [1.0, 0.5]
        make = MakeBuilder(options.out / "tokenizer", base.shape, self.phases, options.seed + 1)
        drawing = SharedFeed(make, base.shape.bytes, Order(max(4, self.workers)), self.workers)
        drawing.start(0, [0] * (len(self.phases) - 1))  # of the last phase
        speeds = run_trial(base, presets, modes, self.tokenizer.size, options.device, options.trial, factors)
        batches, seconds = drawing.speed()
        drawing.close()
        drawn = batches * base.shape.tiles * self.workers / seconds if batches else 0.0
        show(f"drawn {drawn:.0f} tiles a second; " + ", ".join(
            f"{s.preset} x {s.factor:g} {s.mode} {s.tiles:.0f}" for s in speeds))  # fmt: skip
        plan = choose(speeds, drawn, base)
        return plan if options.repeats is None else replace(plan, repeats=options.repeats)

    def _first_weights(self) -> None:
        options = self.options
        if options.weights is not None:
            old = Tokenizer.load(options.weights)
            load_weights(self.model, carried(read_shipped(options.weights, options.heads), old, self.tokenizer))
        elif self.plan.shape.sounds:
            # What normalises every filterbank, from the first batch: the feed draws it anyway.
            first = next(self.feed.batches(0)).arrays
            banks = [tensor_of(b[:n]).float() for b, n in zip(first["banks"], first["frames"], strict=True) if n > 7]
            if banks:
                self.model.audio.cmvn_mean.data, self.model.audio.cmvn_istd.data = statistics(banks)

    def train(self) -> Learner:
        """Until the run's budget or this call's limit; leaves state, plan and curves in the folder."""
        options = self.options
        spent = self.progress.spent + time.monotonic() - self.began
        left = options.seconds - (time.monotonic() - self.began) - options.evaluation - LAST
        clock = WallClock((60 * options.minutes - options.evaluation - LAST) / 60, spent, left)
        how = LoopOptions(options.rate, options.warm_up, self.anew, options.steps, log_seconds=LOG_SECONDS,
                          save_seconds=SAVE_SECONDS, evaluate_seconds=HELD_SECONDS)  # fmt: skip
        parameters = self.model.parameters()
        loop = Loop(self, parameters, self.optimizer, self.progress, clock, self.curves, self.save, how)
        try:
            self.progress = loop.run()
        finally:
            self.feed.close()
        draw_curves(options.out / "curves.jsonl", options.out / "curves.png")
        return self.model

    def batches(self, first: int) -> Iterator[Batch]:
        return on_device(self.feed.batches(first), self.device)

    def objectives(self, batch: Batch, progress: Progress, share: float) -> Iterator[Objective]:
        with autocast(self.device):
            loss, measured = losses(self.model, batch, self.phases[batch.phase], self.device)
        yield Objective(loss, measured, batch.samples)

    def next_index(self, batch: Batch) -> int:
        return batch.index + 1

    def next_phase(self, progress: Progress, share: float, means: Mapping[str, float]) -> int:
        seen = tuple(phase.seen for phase in self.phases)
        return next_phase(seen, progress.phase, share, means.get("char", 0.0), progress.step - progress.since)

    def enter_phase(self, progress: Progress) -> None:
        if progress.phase:
            self.feed.enter_phase(progress.phase)
        progress.starts = self.feed.starts(progress.phase)

    def describe(self, progress: Progress) -> dict[str, float | str]:
        return {"phase": self.phases[progress.phase].seen.name}

    def evaluate(self, share: float) -> dict[str, float | str]:
        """Losses on one held-out batch of the last phase; with a graph, since compiled layers have no other form."""
        if self._held_out is None:
            builder = MakeBuilder(self.options.out / "tokenizer", self.plan.shape, self.phases, 77)()
            arrays = held_out(builder, len(self.phases) - 1)
            tensors = {k: tensor_of(v) if k in ON_HOST else tensor_of(v).to(self.device) for k, v in arrays.items()}
            self._held_out = Batch(0, 0, tensors)
        with autocast(self.device):
            measured = losses(self.model, self._held_out, self.phases[-1], self.device)[1]
        return dict(mean_of([measured]))

    def save(self, progress: Progress) -> None:
        """The run's state in files of under 16 MB, atomically."""
        weights = trained_state(self.model) | {n: p for n, p in self.model.state_dict().items() if "cmvn_" in n}
        notes = {"preset": self.plan.preset, "command": COMMAND}
        save_shards(self.options.out, make_state(weights, self.optimizer, progress, **notes))


def main(arguments: list[str] | None = None) -> int:
    """Train and evaluate, within the limit."""
    began = time.monotonic() - process_age()
    options = Options(**vars(parse(arguments)))
    options.out.mkdir(parents=True, exist_ok=True)
    guard = nullcontext() if options.steps and not options.limit else Watchdog(options.seconds - LAST / 2, began)
    with guard:
        run = Run(options, began)
        counts = {n: sum(p.numel() for p in getattr(run.model, n).parameters()) for n in PARTS}
        show(f"parameters {sum(counts.values())} {counts}, vocabulary {run.tokenizer.size}, {run.workers} workers")
        run.train()
        left = options.seconds - LAST - (time.monotonic() - began)
        if options.evaluation and left > 2:
            from recipes.nano.quick import quick_evaluation

            # A copy: compiled layers would be compiled again for every shape.
            plain = Learner(run.model.size).to(run.device)
            plain.load_state_dict(run.model.state_dict())
            quick_evaluation(plain, run.tokenizer, options.out, options.seconds - LAST - (time.monotonic() - began))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=8.0, help="of the whole run, start and evaluation included")
    parser.add_argument("--limit", type=float, help="minutes of this call, if the run goes on in another one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, help="drawing processes (default: cores less one)")
    parser.add_argument("--preset", choices=(*WIDTHS, "tiny-hearing"), help="width (default on a GPU: measured)")
    parser.add_argument("--mode", choices=("auto", "eager", "compile"), default="auto")
    parser.add_argument("--factor", type=float, help="on the batch (default: measured)")
    parser.add_argument("--repeats", type=int, help="how often a drawn batch is trained (default: measured)")
    parser.add_argument("--trial", type=float, default=20.0, help="seconds for measuring; 0: nothing is measured")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--warm-up", type=int, default=150, help="steps to the highest rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="stop after so many steps")
    parser.add_argument("--tiny", action="store_true", help="the tests' size")
    parser.add_argument("--weights", type=Path, help="a checkpoint folder to begin from")
    parser.add_argument("--heads", type=Path, default=HEADS, help="that were exported with it")
    parser.add_argument("--evaluation", type=float, default=EVALUATION, help="seconds kept for it at the end")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
