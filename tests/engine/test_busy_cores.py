"""Beside a process that uses a core, the engine never computes with all threads, not even to try them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.engine.fakes import FakeEngine, clip, read, text, tile

from vita.engine.request import Request
from vita.runtime.core_usage import WINDOW, CoreUsage
from vita.types import SamplingParams

QUIET, BUSY = {1: 0.01, 2: 0.008}, {1: 0.01, 2: 0.2}  # seconds of a step and of a layer by threads


class Machine:
    """An engine on two cores, of which another process uses one from some moment on."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, busy_from: float) -> None:
        self.used: list[tuple[float, int]] = []  # numbers of threads and when they were set
        self.busy_from = busy_from
        monkeypatch.setattr(torch, "set_num_threads", self.set_threads)
        usage = CoreUsage(self.in_use, lambda: self.now, lambda: self.now)
        self.engine = FakeEngine(folder, threads=2, usage=usage, positions=20_000)

    @property
    def now(self) -> float:
        return self.engine.clock.now

    def in_use(self) -> tuple[float, int]:
        return self.now + max(0.0, self.now - self.busy_from), 2

    def set_threads(self, threads: int) -> None:
        self.used.append((self.now, threads))
        cost = (BUSY if self.now >= self.busy_from else QUIET)[threads]
        self.engine.model.step_seconds = self.engine.model.layer_seconds = cost

    def run(self, stream: Request, steps: int) -> float:
        """The longest time between two steps of a stream."""
        longest = 0.0
        for _ in range(steps):
            before = self.now
            self.engine.step()
            longest = max(longest, self.now - before)
            read(stream)
        return longest

    def stream(self) -> Request:
        """A request that decodes for as long as it is read."""
        stream = self.engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=8000, ignore_eos=True))
        self.engine.start(stream)
        return stream

    def ask(self, number: int) -> None:
        """A request with media."""
        self.engine.submit(text(number, 5), *(tile(8 * number % 200 + n) for n in range(3)), clip(number), text(6))


@pytest.fixture
def folder(mini: Path) -> Path:
    return mini / "mini_ckpt"


def test_streams_beside_a_busy_process_never_wait_for_a_trial_of_all_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(folder, monkeypatch, busy_from=0.0)
    machine.engine.core.runner.start_with_one_thread()  # what the probe says when the model is loaded
    stream, longest = machine.stream(), 0.0
    for k in range(60):
        machine.ask(k)
        longest = max(longest, machine.run(stream, 100))
    assert machine.now > 60, "trials are due again and again"
    assert {threads for _, threads in machine.used} == {1}
    assert longest <= 3 * BUSY[1] + 1e-9, "a step, and work of two steps"


def test_layers_use_one_thread_beside_a_process_that_came_while_nothing_was_encoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vita.engine.runner.cores_are_busy", lambda *_: False)  # the probe, which may be wrong
    machine = Machine(folder, monkeypatch, busy_from=1.0)
    stream, runner = machine.stream(), machine.engine.core.runner
    runner.step_threads.start_with_one()  # steps of one sequence are no slower, so they do not tell of the process
    while machine.now < machine.busy_from + 3 * WINDOW:
        machine.run(stream, 1)
    machine.used.clear()
    machine.ask(0)
    longest = machine.run(stream, 100)
    assert {threads for _, threads in machine.used} == {1}
    assert longest <= 3 * BUSY[1] + 1e-9
