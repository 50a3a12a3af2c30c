"""How much of the cores other processes use, by counters of the system."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from vita.runtime.core_usage import MAX_PAUSE, MIN_FREE_CORES, WINDOW, CoreUsage, cores_in_use

CORES = 2


class Counters:
    """Counters of a system with two cores."""

    def __init__(self) -> None:
        self.now, self.used, self.own, self.reads = 100.0, 5000.0, 70.0, 0
        self.usage = CoreUsage(self.in_use, lambda: self.own, lambda: self.now)

    def in_use(self) -> tuple[float, int]:
        self.reads += 1
        return self.used, CORES

    def run(self, seconds: float, own: float, others: float, steps: int = 100) -> None:
        """Steps of the engine, one after the other, and the cores that this process and others use meanwhile."""
        for _ in range(steps):
            self.usage.begin_step()
            self.wait(seconds / steps, own, others)
            self.usage.end_step()

    def wait(self, seconds: float, own: float, others: float) -> None:
        self.now += seconds
        self.own += own * seconds
        self.used += (own + others) * seconds


def test_only_what_other_processes_use_counts() -> None:
    counters = Counters()
    counters.run(1.0, own=2.0, others=0.0)
    assert counters.usage.free == pytest.approx(2.0) and not counters.usage.busy
    counters.run(1.0, own=1.0, others=1.0)
    assert counters.usage.free == pytest.approx(1.0) and counters.usage.busy
    counters.run(1.0, own=0.0, others=2.0)
    assert counters.usage.free == pytest.approx(0.0, abs=1e-6) and counters.usage.busy
    counters.run(1.0, own=1.0, others=0.9 * (CORES - MIN_FREE_CORES))
    assert not counters.usage.busy


def test_a_core_that_a_helper_shares_with_another_process_is_busy() -> None:
    counters = Counters()
    counters.run(1.0, own=1.6, others=0.4)
    assert not counters.usage.busy, "others use less than half of a core"
    for _ in range(10):
        counters.usage.helped = True
        counters.run(WINDOW / 2, own=1.6, others=0.4)
    assert counters.usage.free == pytest.approx(1.2) and counters.usage.busy, "they would use all of it"
    for _ in range(10):
        counters.usage.helped = True
        counters.run(WINDOW / 2, own=2.0, others=0.0)
    assert not counters.usage.busy


def test_the_counters_are_read_a_few_times_a_second() -> None:
    counters = Counters()
    counters.run(10.0, own=1.0, others=0.0, steps=10_000)
    assert counters.reads <= 1 + 10 / WINDOW


def test_what_others_use_while_the_engine_pauses_is_not_in_its_way() -> None:
    counters = Counters()
    assert counters.usage.free is None and not counters.usage.busy
    counters.run(1.0, own=1.0, others=1.0)
    assert counters.usage.busy
    counters.wait(10 * MAX_PAUSE, own=0.0, others=2.0)
    counters.run(WINDOW * 0.9, own=2.0, others=0.0)
    assert counters.usage.free is None and not counters.usage.busy
    counters.run(WINDOW, own=2.0, others=0.0)
    assert counters.usage.free == pytest.approx(2.0)


def test_steps_may_be_long() -> None:
    counters = Counters()
    counters.run(12.0, own=1.0, others=1.0, steps=6)
    assert counters.usage.busy


def test_a_system_that_hides_its_counters_is_not_known_to_be_busy() -> None:
    def hidden() -> tuple[float, int]:
        raise PermissionError("/proc/stat")

    now = [0.0]
    usage = CoreUsage(hidden, lambda: 0.0, lambda: now[0])
    for _ in range(10):
        now[0] += WINDOW
        usage.begin_step()
        usage.end_step()
        assert usage.free is None and not usage.busy


def test_the_system_counts_the_seconds_of_a_process() -> None:
    (before, cores), start = cores_in_use(), time.perf_counter()
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        while cores_in_use()[0] - before < 0.1:  # ends as soon as the process has run
            assert time.perf_counter() - start < 60
            time.sleep(0.02)
    finally:
        spinning.kill()
        spinning.wait()
    assert cores >= 1 and cores_in_use()[0] - before <= cores * (time.perf_counter() - start) + 1


def test_a_process_that_takes_turns_with_the_engine_is_not_in_its_way() -> None:
    """As a client on the same machine that computes between two short requests."""
    counters = Counters()
    for _ in range(100):
        counters.run(0.02, own=2.0, others=0.0, steps=5)
        counters.wait(0.015, own=0.0, others=2.0)
    assert not counters.usage.busy
    for _ in range(100):  # and one that goes on computing is
        counters.run(0.02, own=1.0, others=1.0, steps=5)
        counters.wait(0.003, own=0.0, others=1.0)
    assert counters.usage.busy
