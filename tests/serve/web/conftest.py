"""A browser for the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.web.chromium import VARIABLE, Page, chromium, find_chromium


@pytest.fixture(scope="session")
def program() -> str:
    """Chromium."""
    found = find_chromium()
    if found is None:
        pytest.skip(f"SKIPPED LOUDLY: Chromium is not installed; install it, or name it in {VARIABLE}")
    return found


@pytest.fixture
def page(program: str, tmp_path: Path) -> Iterator[Page]:
    """A tab of a fresh browser, which must have nothing to complain of at the end."""
    with chromium(program, tmp_path / "profile") as tab:
        tab.look()
        yield tab
        tab.js("1")  # reads what has arrived
        assert tab.complaints == []
