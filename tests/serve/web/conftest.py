"""A browser for the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.web.chromium import VARIABLE, Page, chromium, find_chromium
from tests.serve.web.stub import Stub, files_of_the_page


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


@pytest.fixture(scope="module")
def tab(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A tab that the tests of a module share."""
    with chromium(program, tmp_path_factory.mktemp("tab") / "profile") as page:
        page.look()
        yield page


@pytest.fixture
def stub(tab: Page) -> Iterator[Stub]:
    """The page without a model, which must have nothing to complain of at the end."""
    tab.complaints.clear()
    with files_of_the_page() as url:
        opened = Stub(tab, url)
        yield opened
        tab.js("1")  # reads what has arrived
        opened.close()
        assert tab.complaints == []
