"""Checkpoint folders for tests: copies of the mini one to damage, and random ones of other sizes and layouts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

VISION, AUDIO = "InternViT-mini-112px", "audio-encoder-mini"
Tensors = dict[str, Tensor]


def copy_mini(mini: Path, out: Path) -> Path:
    """The mini checkpoint with its vision folder beside it, as the set lays it out."""
    shutil.copytree(mini / VISION, out / VISION)
    return Path(shutil.copytree(mini / "mini_ckpt", out / "mini_ckpt"))


def read_tensors(folder: Path) -> Tensors:
    """Every tensor of a folder's shards."""
    tensors: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def write_single(folder: Path, tensors: Tensors) -> None:
    """Replace the shards by one model.safetensors."""
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        file.unlink()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(json.dumps(data), encoding="utf-8")


def random_like(tensors: Tensors, seed: int = 0) -> Tensors:
    """Values of the same shapes: small noise, with norms and scales near one."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, tensor in tensors.items():
        noise = torch.randn(tensor.shape, generator=generator) * 0.05
        unit = tensor.dim() == 1 and ("norm" in name or name.endswith((".ls1", ".ls2"))) and not name.endswith("bias")
        out[name] = noise + 1 if unit else noise
    return out
