"""The number of compute threads follows what steps cost: all on quiet cores, one on busy ones, and back."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from vita.runtime.threads import MAX_RETRY, MIN_STEPS, PROBE_INTERVAL, SLOW_STEPS, TRIAL_STEPS, ThreadChoice

ALL = 4
QUIET = {ALL: 0.01, 1: 0.013}  # seconds a step
BUSY = {ALL: 0.2, 1: 0.02}


class Machine:
    """Runs steps of fake costs."""

    def __init__(self, available: int = ALL, busy: Callable[[], bool] | None = None) -> None:
        self.now, self.threads = 0.0, 0
        self.used: list[int] = []
        self.followed = 0
        self.choice = ThreadChoice(available, self.set, lambda: self.now, busy=busy, on_one=self.follow)

    def follow(self) -> None:
        self.followed += 1

    def set(self, threads: int) -> None:
        self.threads = threads

    def run(self, count: int, cost: dict[int, float], what: Callable[[int], Hashable] = lambda k: "step") -> list[int]:
        """The threads that these steps computed with."""
        used = []
        for k in range(count):
            self.choice.before(what(k))
            used.append(self.threads)
            self.used.append(self.threads)
            self.now += cost[self.threads]
            self.choice.after(what(k), cost[self.threads])
        return used


def test_quiet_cores_all_threads_and_rare_trials() -> None:
    machine = Machine()
    used = machine.run(500, QUIET)
    assert (
        used[: MIN_STEPS + TRIAL_STEPS + 1] == [ALL] * MIN_STEPS + [1] * TRIAL_STEPS + [ALL]
        and machine.choice.current == ALL
    )
    assert used.count(1) / TRIAL_STEPS <= 6 + machine.now / MAX_RETRY


def test_busy_cores_one_thread_and_back() -> None:
    machine = Machine()
    machine.run(50, QUIET)
    busy = machine.run(SLOW_STEPS + TRIAL_STEPS, BUSY)
    assert busy == [ALL] * SLOW_STEPS + [1] * TRIAL_STEPS and machine.choice.current == 1
    machine.run(20, BUSY)
    quiet = machine.run(600, QUIET)
    assert machine.choice.current == ALL and quiet[-50:] == [ALL] * 50


def test_busy_from_the_first_step() -> None:
    machine = Machine()
    assert machine.run(MIN_STEPS + TRIAL_STEPS, BUSY) == [ALL] * MIN_STEPS + [1] * TRIAL_STEPS
    assert machine.choice.current == 1


def test_one_slow_step_is_no_reason() -> None:
    machine = Machine()
    machine.run(20, QUIET)
    assert machine.run(1, BUSY) == [ALL]
    assert machine.run(3, QUIET) == [ALL] * 3


def test_trials_while_busy_are_rare() -> None:
    machine = Machine()
    machine.run(3, BUSY)
    begun, used = machine.now, machine.run(3000, BUSY)
    trials = used.count(ALL) / TRIAL_STEPS
    seconds = machine.now - begun
    assert machine.choice.current == 1
    assert 1 <= trials <= 6 + seconds / MAX_RETRY


def test_slow_first_steps_are_no_reason() -> None:
    machine = Machine()
    machine.run(1, BUSY)
    machine.run(50, QUIET)
    assert machine.choice.current == ALL
    assert machine.used.count(1) <= TRIAL_STEPS


def test_slightly_faster_is_not_worth_a_change() -> None:
    machine = Machine()
    machine.run(50, {ALL: 0.01, 1: 0.0075})
    assert machine.choice.current == ALL


def test_a_lone_thread_is_never_set() -> None:
    machine = Machine(available=1)
    machine.threads = 7
    assert set(machine.run(20, {7: 1.0})) == {7}


def test_a_trial_ends_although_the_batch_has_changed() -> None:
    """Batches of one size may never come again: the next ones must still find the faster number."""
    machine = Machine()
    machine.run(50, QUIET, lambda k: 8)
    machine.run(SLOW_STEPS, BUSY, lambda k: 8)
    machine.run(1, BUSY, lambda k: 8)  # the trial has begun, and then a request ends
    machine.run(40, BUSY, lambda k: 7)
    assert machine.choice.current == 1


def test_a_batch_size_that_was_first_seen_on_busy_cores() -> None:
    machine = Machine()
    machine.run(20, QUIET, lambda k: 8)
    machine.run(40, BUSY, lambda k: 7)
    assert machine.choice.current == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(1, 60), st.integers(1, 4)), min_size=1, max_size=8))
def test_the_choice_is_right_after_every_change(phases: list[tuple[int, int, int]]) -> None:
    machine = Machine()
    for busy, steps, sizes in phases:
        machine.run(steps, BUSY if busy else QUIET, lambda k, sizes=sizes: k % sizes)  # type: ignore[misc]
    machine.run(400, BUSY)
    assert machine.choice.current == 1
    machine.run(4000, QUIET)
    assert machine.choice.current == ALL


def test_a_very_slow_step_on_busy_cores_changes_to_one_thread_at_once() -> None:
    machine = Machine(busy=lambda: True)
    machine.run(50, QUIET)
    assert machine.run(3, BUSY) == [ALL, 1, 1] and machine.followed == 1


def test_a_very_slow_step_on_quiet_cores_changes_nothing() -> None:
    probes: list[float] = []
    machine = Machine(busy=lambda: bool(probes.append(machine.now)))
    machine.run(50, QUIET)
    for _ in range(20):
        assert machine.run(1, BUSY) == [ALL]
        machine.run(3, QUIET)
    assert machine.choice.current == ALL and machine.followed == 0
    assert all(b - a >= PROBE_INTERVAL for a, b in pairwise(probes)), "a probe takes as long as some steps"


def test_all_threads_are_not_tried_while_the_cores_are_busy() -> None:
    busy = True
    machine = Machine(busy=lambda: busy)
    machine.run(MIN_STEPS + TRIAL_STEPS, BUSY)
    assert machine.followed == 1
    assert set(machine.run(3000, BUSY)) == {1}
    busy = False
    machine.run(round(MAX_RETRY / QUIET[1]), QUIET)
    assert machine.choice.current == ALL


def test_a_choice_that_follows_another_one_uses_one_thread() -> None:
    machine = Machine()
    machine.run(50, QUIET)
    machine.choice.start_with_one()
    assert set(machine.run(10, BUSY)) == {1} and machine.followed == 0


def test_idle_cores_help_long_steps_of_one_thread() -> None:
    machine = Machine()
    machine.run(50, {ALL: 0.2, 1: 0.3})
    machine.choice.before("step")
    assert machine.threads == ALL and machine.choice.helpers("step") == 0, "all threads compute"
    machine.run(30, {ALL: 4.0, 1: 0.3})
    machine.choice.before("step")
    assert machine.threads == 1 and machine.choice.helpers("step") == ALL - 1
    machine.choice.reserved = 1
    machine.choice.before("step")
    assert machine.choice.helpers("step") == 0, "the cores are left to others"


def test_short_steps_get_no_help() -> None:
    machine = Machine()
    machine.run(30, BUSY)
    machine.choice.before("step")
    assert machine.threads == 1 and machine.choice.helpers("step") == 0


def test_steps_with_and_without_help_are_not_compared() -> None:
    machine = Machine()
    machine.run(50, {ALL: 4.0, 1: 0.12})
    helped = 0
    for _ in range(200):  # three times as fast with help, which another engine has now and then
        machine.choice.before("step")
        help_ = machine.choice.helpers("step") if machine.now % 5 < 4 else 0
        helped += help_ > 0
        seconds = 4.0 if machine.threads == ALL else 0.04 if help_ else 0.12
        machine.now += seconds
        machine.choice.after("step", seconds, help_)
    trials = machine.used.count(ALL)
    assert helped > 120 and machine.choice.current == 1 and trials <= MIN_STEPS + 2 * TRIAL_STEPS
