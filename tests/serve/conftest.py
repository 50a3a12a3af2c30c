"""The embedded model, loaded once, and a server that answers with it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason='SKIPPED LOUDLY: pip install -e ".[serve]" is missing')

import vita
from tests.serve.running import Running, running

ASSETS = Path(__file__).parents[2] / "assets"


@pytest.fixture(scope="session")
def embedded() -> Iterator[vita.Vita]:
    """The embedded model on the CPU."""
    with vita.load(device="cpu") as model:
        yield model


@pytest.fixture(scope="module")
def served(embedded: vita.Vita) -> Iterator[Running]:
    """A server on loopback without a key."""
    with running(embedded) as server:
        yield server


@pytest.fixture(scope="session")
def logo() -> str:
    """An image as a data: URL."""
    return "data:image/png;base64," + base64.b64encode((ASSETS / "vita_logo.png").read_bytes()).decode()


@pytest.fixture(scope="session")
def speech() -> str:
    """A FLAC file as base64: "What can you do?"."""
    return base64.b64encode((ASSETS / "what_can_you_do.flac").read_bytes()).decode()
