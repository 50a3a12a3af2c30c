"""All tests of speech see the voices that the checkout declares."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def declared(voices_are_declared: None) -> None:
    """See `tests.voices`."""
