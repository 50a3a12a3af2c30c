"""The most urgent thread computes first, and an interrupted wait holds up nobody."""

from __future__ import annotations

import threading
import time

import pytest

from vita.runtime.deadlines import EarliestDeadlineFirst


def waiting(deadlines: EarliestDeadlineFirst, count: int) -> None:
    """Until so many threads wait."""
    until = time.monotonic() + 30
    while len(deadlines._waiting) < count:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("count", [1, 2])
def test_the_most_urgent_is_next(count: int) -> None:
    deadlines, order, threads = EarliestDeadlineFirst(count), list[float](), list[threading.Thread]()
    held = [deadlines.admit(0.0) for _ in range(count)]
    for admitted in held:
        admitted.__enter__()

    def compute(deadline: float) -> None:
        with deadlines.admit(deadline):
            order.append(deadline)

    for number, deadline in enumerate((3.0, 1.0, 2.0, float("-inf"))):
        threads.append(threading.Thread(target=compute, args=(deadline,), daemon=True))
        threads[-1].start()
        waiting(deadlines, number + 1)
    assert not order
    held[0].__exit__(None, None, None)
    for thread in threads:
        thread.join(30)
    assert order == [float("-inf"), 1.0, 2.0, 3.0]


def test_an_error_lets_the_next_compute() -> None:
    deadlines = EarliestDeadlineFirst(1)
    for _ in range(3):
        with pytest.raises(KeyError), deadlines.admit(1.0):
            raise KeyError
    with deadlines.admit(0.0):
        pass


def test_an_interrupted_wait_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines = EarliestDeadlineFirst(1)

    def interrupt(_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(deadlines._changed, "wait_for", interrupt)
    with pytest.raises(KeyboardInterrupt), deadlines.admit(0.0):
        raise AssertionError("it may not compute")
    monkeypatch.undo()
    with deadlines.admit(9.0):
        pass
