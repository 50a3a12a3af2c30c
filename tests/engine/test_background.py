"""Background work in the engine's loop on a fake clock: when it computes, and what it does not hold up."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from tests.engine.fakes import FakeEngine, read, text

from vita.engine.background import MARGIN_SECONDS, MAX_TURNS, SourceQueue
from vita.engine.request import Phase
from vita.errors import Cancelled, ResourceError
from vita.types import SamplingParams

PIECE = 0.5  # seconds that a piece of background work takes
FOREVER = SamplingParams(max_tokens=200, ignore_eos=True)


class FakeSource:
    """Pieces of background work, each of which is good for `heard` seconds after the one before.

    Attributes:
        late_at: when the next piece is late, by the engine's clock.
    """

    def __init__(self, engine: FakeEngine, pieces: int, *, due_in: float = 0.0, heard: float = 10.0) -> None:
        self.engine, self.left, self.heard = engine, pieces, heard
        self.late_at = engine.clock.now + due_in
        self.ended: BaseException | None = None
        self.raises: Exception | None = None
        self.budgets: list[float] = []
        self.slacks: list[float] = []

    def slack(self) -> float | None:
        return self.late_at - self.engine.clock.now if self.left and self.ended is None else None

    def run_some(self, budget: float) -> None:
        if self.raises is not None:
            raise self.raises
        self.budgets.append(budget)
        until = self.engine.clock.now + budget
        while self.left:
            self.slacks.append(self.late_at - self.engine.clock.now)
            self.engine.clock.now += PIECE
            self.engine.model.log.append(("source", self.left))
            self.left -= 1
            self.late_at += self.heard
            if self.engine.clock.now + PIECE > until:
                return

    def end(self, error: BaseException) -> None:
        self.ended = error


@pytest.fixture
def engine(mini: Path) -> FakeEngine:
    return FakeEngine(mini / "mini_ckpt", layers=20)


def attach(engine: FakeEngine, source: FakeSource) -> FakeSource:
    engine.core.scheduler.background.attach(source)
    return source


def test_an_idle_engine_computes_it_piece_by_piece_and_then_waits(engine: FakeEngine) -> None:
    source = attach(engine, FakeSource(engine, 7, due_in=1000.0))
    engine.run()
    assert source.left == 0 and source.budgets == [0.0] * 7, "messages are seen between two pieces"


def test_between_two_text_steps_it_computes_at_most_its_budget(engine: FakeEngine) -> None:
    stream = engine.submit(text(1, 2, 3), params=FOREVER)
    engine.start(stream)
    engine.step(2)
    engine.model.log.clear()
    source = attach(engine, FakeSource(engine, 100, heard=0.0))  # always late
    engine.step(10)
    runs = [(kind, len(list(group))) for kind, group in groupby(engine.model.log, key=lambda entry: entry[0])]
    # A step takes 1 s; the budget of two steps holds four pieces.
    assert runs == [("decode", 1), ("source", 4)] * 10
    assert source.left == 60
    engine.run()
    assert read(stream)[-1].token_ids == engine.expected(stream).ids  # type: ignore[union-attr]


def test_work_that_is_not_due_leaves_all_time_to_text(engine: FakeEngine) -> None:
    stream = engine.submit(text(1, 2, 3), params=FOREVER)
    engine.start(stream)
    engine.step(2)
    engine.model.log.clear()
    source = attach(engine, FakeSource(engine, 10, due_in=30.0, heard=30.0))
    engine.step(60)
    kinds = [kind for kind, _ in engine.model.log]
    assert kinds.count("decode") == 60 and kinds[:20].count("source") == 0
    assert source.left < 10 and min(source.slacks) >= 0, "never late"
    step = 1.0 + engine.limits.work_steps  # with its budget
    assert max(source.slacks[:1]) <= MARGIN_SECONDS + step, "and not before it must"


def test_what_runs_dry_goes_before_the_prefill_of_others_and_does_not_starve_it(engine: FakeEngine) -> None:
    source = attach(engine, FakeSource(engine, 1000, heard=0.0))  # always late: it cannot keep up
    other = engine.submit(text(*range(20, 1220)))
    engine.step(40)
    kinds = [kind for kind, _ in engine.model.log]
    assert kinds[0] == "source"
    assert kinds.count("layer") == pytest.approx(40 / (MAX_TURNS + 1), abs=1)
    source.late_at += 1e6
    engine.model.log.clear()
    engine.step(10)
    assert {kind for kind, _ in engine.model.log} == {"layer"}, "what is not due waits for prefill"
    engine.run()
    assert read(other)[-1].token_ids == engine.expected(other).ids  # type: ignore[union-attr]


def test_of_two_sources_the_one_that_is_late_sooner_computes(engine: FakeEngine) -> None:
    later = attach(engine, FakeSource(engine, 3, due_in=5.0, heard=10.0))
    sooner = attach(engine, FakeSource(engine, 3, due_in=1.0, heard=10.0))
    engine.step(2)
    assert (sooner.left, later.left) == (2, 2)


def test_a_source_that_raises_ends_alone(engine: FakeEngine) -> None:
    stream = engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=20, ignore_eos=True))
    broken, sane = (attach(engine, FakeSource(engine, 5)) for _ in range(2))
    broken.raises = ValueError("broken")
    engine.run()
    assert isinstance(broken.ended, ValueError) and sane.left == 0 and sane.ended is None
    assert read(stream)[-1].token_ids == engine.expected(stream).ids  # type: ignore[union-attr]
    assert engine.core.failure is None


def test_a_device_that_fails_ends_requests_and_sources_and_those_that_come_later(mini: Path) -> None:
    engine = FakeEngine(mini / "mini_ckpt", is_async=True)
    broken, other = (attach(engine, FakeSource(engine, 50)) for _ in range(2))
    stream = engine.submit(text(1, 2, 3), params=FOREVER)
    engine.start(stream)
    broken.raises = RuntimeError("CUDA error: device-side assert triggered")
    engine.step(10)
    assert stream.phase is Phase.FINISHED and isinstance(engine.core.failure, ResourceError)
    assert isinstance(broken.ended, ResourceError) and isinstance(other.ended, ResourceError)
    late = attach(engine, FakeSource(engine, 5))
    assert isinstance(late.ended, ResourceError) and late.slack() is None


def test_closing_ends_them_as_cancelled() -> None:
    queue = SourceQueue()

    class Source:
        ended: BaseException | None = None

        def slack(self) -> float | None:
            return 0.0

        def run_some(self, budget: float) -> None: ...

        def end(self, error: BaseException) -> None:
            self.ended = error

    source = Source()
    queue.attach(source)
    queue.end(Cancelled())
    assert isinstance(source.ended, Cancelled)
