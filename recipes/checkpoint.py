"""A run's state on disk, written so that a kill at any moment leaves a whole one.

Owns the file format of `state.pt`. Does not know how the state is reached.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from recipes.model import Learner
from vita.prompt.tokenizer import Tokenizer
from vita.weights.find import open_checkpoint
from vita.weights.load import load_part

FILE = "state.pt"
HEADS = Path(__file__).parent / "dense_heads.safetensors"  # of the shipped model; the checkpoint has no place for them


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    index: int = 0  # the next sample's number
    spent: float = 0.0  # active seconds
    phase: int = 0
    since: int = 0  # the step at which the phase began


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


def read_seeing(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The parts of an exported checkpoint that see and answer, in float32."""
    checkpoint = open_checkpoint(folder, offline=True)
    size, cpu = Tokenizer.load(folder).size, torch.device("cpu")
    parts = ("vision", "projector", "decoder")
    return {part: load_part(part, checkpoint, size, torch.float32, cpu).state_dict() for part in parts}


def read_shipped(folder: Path) -> dict[str, Tensor]:
    """What an exported checkpoint and the heads kept beside the recipe hold, by the learner's names.

    Lets a run go on from the shipped model: `--weights src/vita/default`.
    """
    weights = {name: tensor.float() for name, tensor in load_file(HEADS).items()}
    for part, tensors in read_seeing(folder).items():
        weights |= {f"{part}.{name}": tensor for name, tensor in tensors.items()}
    return weights


def load_weights(model: Learner, weights: dict[str, Tensor]) -> None:
    """Fills the model; only the audio parts, which some runs do not have, may stay as they are.

    Raises:
        ValueError: other weights are missing, or some are unknown.
    """
    missing, unknown = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.startswith(("audio.", "adapter."))]
    if missing or unknown:
        raise ValueError(f"missing {missing}, unknown {unknown}")
