"""A run's state on disk, written so that a kill at any moment leaves a whole one.

Owns the file format of `state.pt`. Does not know how the state is reached.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recipes.model import Learner

FILE = "state.pt"


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    index: int = 0  # the next sample's number
    spent: float = 0.0  # active seconds


def save_state(folder: Path, model: Learner, optimizer: torch.optim.Optimizer, progress: Progress, preset: str) -> None:
    """Writes beside the old state, then takes its place."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": vars(progress),
        "preset": preset,
        "torch_rng": torch.get_rng_state(),
    }
    temporary = folder / f"{FILE}.tmp"
    with temporary.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(folder / FILE)


def read_state(folder: Path) -> dict[str, Any]:
    """What `save_state` wrote."""
    state: dict[str, Any] = torch.load(folder / FILE, map_location="cpu", weights_only=True)
    return state


def restore(state: dict[str, Any], model: Learner, optimizer: torch.optim.Optimizer) -> Progress:
    """Fills model, optimiser and generator; returns the progress."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["torch_rng"])
    return Progress(**state["progress"])
