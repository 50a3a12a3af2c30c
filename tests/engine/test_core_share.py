"""Media workers get a core while they compute, and no longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from vita.engine.core_share import CoreShare, cpu_seconds
from vita.engine.media_workers import MediaWorkers
from vita.runtime.threads import ThreadChoice

needs_clock = pytest.mark.skipif(
    not hasattr(time, "pthread_getcpuclockid"), reason="SKIPPED LOUDLY: no processor time of other threads here"
)


class Worker:
    """A media worker whose job does what the test says."""

    def __init__(self, share: CoreShare, job: Callable[[], None]) -> None:
        self._share, self._job = share, job
        self.began = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._share.begin()
        self.began.set()
        self._job()
        self._share.end()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def spin(stop: threading.Event) -> Callable[[], None]:
    def job() -> None:
        while not stop.is_set():
            pass

    return job


@needs_clock
def test_a_worker_that_computes_gets_a_core_until_it_ends(stop: threading.Event) -> None:
    share = CoreShare()
    assert share.begin_step() == 0
    share.end_step()
    worker = Worker(share, spin(stop))
    assert worker.began.wait(30)
    for _ in range(3):
        assert share.begin_step() == 1
        thread = next(iter(share._workers))
        computed = cpu_seconds(thread)
        while cpu_seconds(thread) == computed:  # the step takes until the worker has had a core for a while
            time.sleep(0.01)
        share.end_step()
    stop.set()
    worker.join()
    assert share.begin_step() == 0


@needs_clock
def test_a_worker_that_waits_for_a_file_needs_none(stop: threading.Event) -> None:
    share = CoreShare()
    worker = Worker(share, lambda: bool(stop.wait(30)) and None)
    assert worker.began.wait(30)
    assert share.begin_step() == 1, "nothing is known of it yet"
    share.end_step()
    time.sleep(0.1)
    assert share.begin_step() == 0
    share.end_step()
    stop.set()
    worker.join()


def test_a_worker_waits_for_the_step_that_runs_but_not_for_ever(stop: threading.Event) -> None:
    share = CoreShare()
    assert share.begin_step() == 0
    worker = Worker(share, lambda: None)
    assert worker.began.wait(30), "a long step does not hold it up"
    worker.join()
    share.end_step()


def test_steps_that_leave_cores_to_others_are_not_compared() -> None:
    used: list[int] = []
    choice = ThreadChoice(8, used.append)
    for reserved in (0, 2, 9):
        choice.reserved = reserved
        choice.before("step")
        choice.after("step", 5.0 if reserved else 1.0)
    assert used == [8, 6, 1]
    choice.reserved = 0
    assert choice._usual == {(8, "step", False): 1.0}


def test_the_jobs_of_media_workers_are_known() -> None:
    workers, seen = MediaWorkers(), []
    done = threading.Event()

    def job() -> None:
        seen.append(len(workers.share._workers))
        done.set()

    workers.submit(job)
    assert done.wait(30)
    workers.close()
    workers.join(30)
    assert seen == [1] and not workers.share._workers


@needs_clock
def test_a_voice_that_computes_gets_a_core_from_the_next_step_on() -> None:
    share, entered, leave = CoreShare(), threading.Event(), threading.Event()

    def speak() -> None:
        with share.computing():
            entered.set()
            assert leave.wait(30)

    assert share.begin_step() == 0
    voice = threading.Thread(target=speak, daemon=True)
    voice.start()
    assert entered.wait(30), "it does not wait for the step that runs"
    share.end_step()
    assert share.begin_step() == 1
    share.end_step()
    leave.set()
    voice.join(30)
    assert share.begin_step() == 0
