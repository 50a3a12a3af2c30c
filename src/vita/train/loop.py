"""The training loop: batches, updates, phases, logs, evaluation and saving.

A `Task` says what is trained: it draws batches, computes losses and chooses the phase. The loop knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from vita.train.checkpoint import Progress
from vita.train.curves import Curves
from vita.train.optimizer import ALONE, update
from vita.train.parallel import DataParallel
from vita.train.schedule import Clock, learning_rate

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Objective:
    """One loss to be minimised.

    Attributes:
        loss: scalar with a graph.
        measured: scalars for the log, tensors or numbers.
        samples: how many samples it is of, for the speed.
    """

    loss: Tensor
    measured: Mapping[str, Tensor | float]
    samples: int


class Task(Protocol[Batch]):
    """What a loop trains."""

    def batches(self, first: int) -> Iterator[Batch]:
        """Batches without end, from sample or batch number `first` on; drawn for the phase that was entered last."""

    def objectives(self, batch: Batch, progress: Progress, share: float) -> Iterable[Objective]:
        """One or several losses of a batch. Each is minimised before the next one is asked for."""

    def next_index(self, batch: Batch) -> int:
        """The number that follows a batch."""

    def next_phase(self, progress: Progress, share: float, means: Mapping[str, float]) -> int:
        """The phase to go on with.

        Args:
            progress: where the run is.
            share: of the budget that is spent.
            means: running means of what was measured.
        """

    def enter_phase(self, progress: Progress) -> None:
        """Draw for `progress.phase` from now on. Called at the start too."""

    def describe(self, progress: Progress) -> dict[str, float | str]:
        """What a line of the log says about the phase."""

    def evaluate(self, share: float) -> dict[str, float | str]:
        """Measurements on held-out samples; empty where there are none."""


@dataclass(frozen=True)
class LoopOptions:
    """How long, how fast, and how often.

    Attributes:
        rate: highest learning rate.
        warm_up: steps to it.
        warm_up_phases: each phase warms up anew.
        steps: stop after so many, whatever the time.
        log_seconds, save_seconds, evaluate_seconds: between two of them.
    """

    rate: float
    warm_up: int = 150
    warm_up_phases: bool = False
    steps: int | None = None
    log_seconds: float = 20.0
    save_seconds: float = 180.0
    evaluate_seconds: float = 300.0


class Loop:
    """Trains a task until the clock says that the budget is spent.

    Args:
        task: what is trained.
        parameters: clipped together with every update.
        optimizer: over them.
        progress: where to begin; updated in place of the loop's own, never in the object.
        clock: the budget.
        curves: the log.
        save: writes the state.
        options: see there.
        parallel: the processes of the run. The clock, the phase, the log and the state are the first one's.
    """

    def __init__(
        self, task: Task[Batch], parameters: Iterable[nn.Parameter], optimizer: Optimizer, progress: Progress,
        clock: Clock, curves: Curves, save: Callable[[Progress], None], options: LoopOptions,
        parallel: DataParallel = ALONE,
    ) -> None:  # fmt: skip
        self.task, self.optimizer, self.clock, self.curves = task, optimizer, clock, curves
        self.parameters = [p for p in parameters if p.requires_grad]
        self.progress, self.save, self.options = progress, save, options
        self.parallel = parallel
        self._timers = dict.fromkeys(("log", "save", "evaluate"), time.monotonic())

    def run(self) -> Progress:
        """Train; returns where it stopped. The state is saved at the end."""
        self.parallel.copy_first(self.parameters)
        self._choose_phase(self.progress.spent / self.clock.budget)
        self.task.enter_phase(self.progress)
        self.clock.skip()
        for batch in self.task.batches(self.progress.index):
            share, over = self.parallel.agree((self.clock.tick(), self.clock.over))
            # A run may be resumed past its steps: with fewer of them than before.
            if share >= 1 or over or (self.options.steps is not None and self.progress.step >= self.options.steps):
                break
            rate = self.rate(share)
            for objective in self.task.objectives(batch, self.progress, share):
                norm = update(self.parameters, self.optimizer, objective.loss, rate, self.parallel)
                self.curves.add({**objective.measured, "norm": norm}, objective.samples)
            self._advance(self.task.next_index(batch), share)
            if self.parallel.first:
                self._report(share, rate)
        self.curves.flush()
        if self.parallel.first:
            self.save(self.progress)
        return self.progress

    def rate(self, share: float) -> float:
        """The learning rate of the next step."""
        step = self.progress.step - (self.progress.since if self.options.warm_up_phases else 0)
        return learning_rate(self.options.rate, step, share, self.options.warm_up)

    def _advance(self, index: int, share: float) -> None:
        old = self.progress
        self.progress = Progress(old.step + 1, index, self.clock.spent, old.phase, old.since, old.starts)
        before = old.phase
        self._choose_phase(share)
        if self.progress.phase != before:
            self.task.enter_phase(self.progress)

    def _choose_phase(self, share: float) -> None:
        wanted = int(self.parallel.agree((self.task.next_phase(self.progress, share, self.curves.means),))[0])
        if wanted != self.progress.phase:
            self.progress.phase, self.progress.since = wanted, self.progress.step

    def _report(self, share: float, rate: float) -> None:
        if self._due("log", self.options.log_seconds):
            self.curves.flush()
            line: dict[str, float | str] = {"share": round(share, 4), **self.task.describe(self.progress)}
            line |= {"step": str(self.progress.step), "speed": self.curves.speed() * self.parallel.size, "rate": rate}
            self.curves.write("train", {**line, **self.curves.means})
        if self._due("save", self.options.save_seconds):
            self.save(self.progress)
        if self._due("evaluate", self.options.evaluate_seconds):
            measured = self.task.evaluate(share)
            if measured:
                self.curves.write("heldout", {"share": round(share, 4), **measured})
            self.clock.skip()

    def _due(self, timer: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._timers[timer] < seconds:
            return False
        self._timers[timer] = now
        return True
