"""Bandwidth is cached and measured again when it is too low; the table of timings shows the stages that ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vita.cli.report import timing_rows
from vita.events import Done, Result, Timings, Usage
from vita.runtime import bandwidth


def test_bandwidth_measured_on_a_busy_machine_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    figures = iter([0.3, 21.0, 22.0])
    monkeypatch.setattr(bandwidth, "measure_bandwidth", lambda: next(figures))
    assert bandwidth.read_bandwidth() == 0.3
    assert bandwidth.read_bandwidth(reached=0.2) == 0.3
    assert bandwidth.read_bandwidth(reached=15.0) == 21.0
    assert bandwidth.read_bandwidth(reached=15.0) == 21.0
    file = tmp_path / "vita" / "machine.json"
    assert list(json.loads(file.read_text()).values()) == [21.0]
    file.write_text("[broken")
    assert bandwidth.read_bandwidth() == 22.0


def test_stages_that_did_not_run_are_left_out() -> None:
    timings = Timings(prefill=0.5, decode=2.0, first_token=0.6, total=2.7, decode_tokens=10, bytes_per_token=10**9)
    rows = timing_rows(Done("stop", "typed", Usage(prompt_tokens=7, completion_tokens=11), timings), 20.0)
    names = [name for name, _, _ in rows]
    assert "vision" not in names and "audio" not in names
    shown = {name: f"{time} {what}" for name, time, what in rows}
    assert shown["decode"] == "2.00 s 11 tokens, 5.0 tokens/s, 5.00 of 20.0 GB/s"
    assert shown["prefill"] == "500 ms first token after 600 ms"


@pytest.mark.parametrize(("queued", "shown"), [(0.0, None), (0.0009, None), (0.001, "1 ms"), (2.0, "2.00 s")])
def test_time_in_the_queue_is_shown_from_a_millisecond_on(queued: float, shown: str | None) -> None:
    rows = timing_rows(Done("stop", "typed", Usage(), Timings(queued=queued, total=3.0)), None)
    assert {name: time for name, time, _ in rows}.get("queued") == shown


def test_images_per_second_are_those_of_the_request() -> None:
    rows = timing_rows(Done("stop", "typed", Usage(images=4), Timings(total=2.0)), None)
    assert ("total", "2.00 s", "2.00 images/s") in rows
    for images, total, rate in ((4, 2.0, 2.0), (0, 2.0, None), (1, 0.0, None)):
        result = Result("", "typed", "stop", Usage(images=images), Timings(total=total))
        assert result.images_per_second == rate


def test_rates_without_tokens_are_zero() -> None:
    assert Timings().tokens_per_second == Timings().gigabytes_per_second == 0.0
