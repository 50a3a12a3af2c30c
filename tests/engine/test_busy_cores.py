"""Beside a process that uses a core, the engine never computes with all threads, not even to try them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.engine.fakes import FakeEngine, clip, read, text, tile

from vita.events import Done
from vita.runtime.core_usage import CoreUsage
from vita.types import SamplingParams

STEP, LAYER = {1: 0.01, 2: 0.2}, {1: 0.005, 2: 0.1}  # seconds by threads, beside a busy process


def test_streams_beside_a_busy_process_never_wait_for_a_trial_of_all_threads(
    mini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def set_threads(threads: int) -> None:
        used.append(threads)
        engine.model.step_seconds, engine.model.layer_seconds = STEP[threads], LAYER[threads]

    monkeypatch.setattr(torch, "set_num_threads", set_threads)
    usage = CoreUsage(lambda: (2 * engine.clock.now, 2), lambda: engine.clock.now, lambda: engine.clock.now)
    engine = FakeEngine(mini / "mini_ckpt", threads=2, usage=usage, positions=20_000)
    engine.core.runner.start_with_one_thread()  # what the probe says when the model is loaded
    stream = engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=8000, ignore_eos=True))
    engine.start(stream)
    longest = 0.0
    for k in range(60):  # a minute and more: trials are due again and again
        engine.submit(text(k, 5), *(tile(8 * k % 200 + n) for n in range(3)), clip(k), text(6))
        for _ in range(100):
            before = engine.clock.now
            engine.step()
            longest = max(longest, engine.clock.now - before)
            read(stream)
    assert engine.clock.now > 60 and set(used) == {1}
    assert longest <= 3 * STEP[1] + 1e-9, "a step, and work of two steps"
    stream.cancelled = True
    engine.run()
    assert isinstance(read(stream)[-1], Done)
