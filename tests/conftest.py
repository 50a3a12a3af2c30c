"""Fixtures shared by all tests: the committed reference set, the big one where it is, and a loaded mini model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import vita

ROOT = Path(__file__).parents[1]


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
