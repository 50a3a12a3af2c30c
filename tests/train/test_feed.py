"""Batches in shared memory: the same order whatever the workers' speed, also after a stop, and no orphans."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
from tests.forks import Forks

from vita.train.feed import Build, Order, SharedFeed, WorkerDied


def make() -> Build:
    def build(number: int, phase: int) -> dict[str, np.ndarray]:
        time.sleep(0.002 * (number % 3))  # later numbers may be ready first
        return {"data": np.full((3, number % 4), number, np.int16), "phase": np.array([phase])}

    return build


def taken(feed: SharedFeed, first: int, count: int) -> list[tuple[int, int, int]]:
    out = []
    for one in islice(feed.batches(first), count):
        assert one.arrays["data"].shape == (3, one.number % 4) and (one.arrays["data"] == one.number).all()
        assert one.arrays["phase"][0] == one.phase
        out.append((one.index, one.number, one.phase))
    return out


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_order_depends_on_nothing_but_the_place(repeats: int) -> None:
    order = Order(block=4, repeats=repeats, seed=5)
    feed = SharedFeed(make, 4096, order, workers=3)
    feed.start(0, [])
    whole = taken(feed, 0, 30)
    feed.close()
    assert [number for _, number, _ in whole] == [order.number(k) for k in range(30)]
    per_block = 4 * repeats
    for block in range(30 // per_block):
        numbers = [n for _, n, _ in whole[block * per_block : (block + 1) * per_block]]
        assert sorted(numbers) == sorted(list(range(4 * block, 4 * block + 4)) * repeats)
    again = SharedFeed(make, 4096, order, workers=2)
    again.start(17, [])
    assert taken(again, 17, 13) == whole[17:]
    again.close()


def test_a_phase_begins_with_the_first_batch_that_nobody_has_begun() -> None:
    feed = SharedFeed(make, 4096, Order(block=4), workers=2)
    feed.start(0, [])
    before = taken(feed, 0, 5)
    start = feed.enter_phase(2)
    assert start >= 5 and feed.starts(2) == [start, start]
    assert feed.enter_phase(2) == start, "entered again after a stop, it stays where it began"
    after = taken(feed, 5, 20)
    feed.close()
    assert all(phase == (2 if number >= start else 0) for _, number, phase in before + after)
    again = SharedFeed(make, 4096, Order(block=4), workers=1)
    again.start(3, [start, start])
    assert taken(again, 3, 22) == [*before[3:], *after]
    again.close()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda number, phase: 1 / 0, "ended with code"),
        (lambda number, phase: {"a": np.zeros(9999)}, "ended with code"),
    ],
)
def test_a_worker_that_fails_ends_the_run(build: Build, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    def failing() -> Callable[[int, int], dict[str, np.ndarray]]:
        return build  # type: ignore[return-value]

    feed = SharedFeed(failing, 4096, Order(), workers=1)
    feed.start(0, [])
    with pytest.raises(WorkerDied, match=said):
        next(feed.batches(0))
    feed.close()
    assert "Error" in capfd.readouterr().err


@pytest.mark.parametrize("late", [0.0, 0.5], ids=["running", "not yet running"])
def test_workers_of_a_killed_trainer_end(forks: Forks, late: float) -> None:
    code = """
import os, sys, time, numpy as np
from vita.train.feed import Order, SharedFeed
class Feed(SharedFeed):
    def _work(self, worker, trainer):
        time.sleep(float(sys.argv[1]) * worker)  # the second process gets no core before the trainer is killed
        super()._work(worker, trainer)
feed = Feed(lambda: lambda number, phase: {"a": np.zeros(1)}, 4096, Order(), 2)
feed.start(0, [])
next(feed.batches(0))
print(*(p.pid for p in feed._processes), flush=True)
os.kill(os.getpid(), 9)
"""
    done = forks.run([sys.executable, "-c", code, str(late)], capture_output=True, text=True, timeout=60)
    workers = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -9 and len(workers) == 2
    for _ in range(200):
        if not any(_runs(pid) for pid in workers):
            return
        time.sleep(0.05)
    raise AssertionError("workers outlive the trainer")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
