"""The tier of slow tests, a summary of what was skipped, and fixtures: reference sets and a loaded mini model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import vita
from tests.forks import Forks
from tests.voices import espeak, piper, tone_is_declared, voices_are_declared  # noqa: F401

# A deadline of wall-clock time would decide by how busy the machine is.
settings.register_profile("vita", deadline=None)
settings.load_profile("vita")

ROOT = Path(__file__).parents[1]
SLOW = "SKIPPED LOUDLY: slow; ./test.sh --slow runs it"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that are marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason=SLOW))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for every reason why tests were skipped, so that a tier that did not run is seen."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", [])
    )
    for reason, tests in reasons.most_common():
        terminalreporter.write_line(f"{tests} skipped: {reason.removeprefix('SKIPPED LOUDLY: ')[:200]}", yellow=True)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Starts processes without the second or two that importing torch and vita takes."""
    if not hasattr(os, "fork"):
        pytest.skip("SKIPPED LOUDLY: this system has no fork")
    started = Forks()
    yield started
    started.close()


@pytest.fixture(scope="session")
def mini() -> Path:
    """The committed reference set."""
    return ROOT / "tests" / "goldens" / "mini"


@pytest.fixture(scope="session")
def big_goldens() -> Path:
    """The big reference sets beside the checkout; not committed for their size."""
    folder = Path(os.environ.get("VITA_GOLDENS", ROOT.parent / "shared" / "goldens"))
    if not (folder / "tiny").is_dir():
        pytest.skip(f"SKIPPED LOUDLY: the big reference sets are not at {folder}; set VITA_GOLDENS")
    return folder


@pytest.fixture(scope="session")
def mini_model(mini: Path) -> vita.Vita:
    """The mini checkpoint in float32 on the CPU (random weights: its answers mean nothing)."""
    return vita.load(mini / "mini_ckpt", dtype="float32", device="cpu")
