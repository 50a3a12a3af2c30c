"""The reference sets with wider heads, since vLLM's attention on CPUs has none of 12 or 16.

The widened decoder computes the same values. Its hidden size is filled up with zeros. RMSNorm's mean then runs over
more values: weight and eps make up for it. Heads are filled up with zeros, too: queries are scaled for the other
`1 / sqrt(d)`, and rotation is limited to the first values of a head, which config.json cannot say (`OVERRIDES`).
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.checkpoints import read_tensors, write_single

HEAD = 32
BEHIND = ("mm_projector.0", "mm_projector.2", "adpter.project")  # linear layers of the decoder's hidden size


def widen(checkpoint: Path, vision: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a checkpoint with heads of 32.

    Returns:
        its folder, and what vLLM's `hf_overrides` must be.
    """
    shutil.copytree(vision, out / vision.name)
    folder = Path(shutil.copytree(checkpoint, out / checkpoint.name))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, size = config["num_attention_heads"], config["hidden_size"]
    head, wide = size // heads, heads * HEAD
    tensors = {name: widened(name, t.float(), size, wide, head) for name, t in read_tensors(folder).items()}
    write_single(folder, tensors)
    config["hidden_size"], config["rms_norm_eps"] = wide, config["rms_norm_eps"] * size / wide
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"], "partial_rotary_factor": head / HEAD}
    return folder, {"text_config": {"rope_parameters": rope}}


def widened(name: str, tensor: Tensor, size: int, wide: int, head: int) -> Tensor:
    """One tensor, filled up with zeros.

    Args:
        name: in the checkpoint.
        tensor: float32.
        size, wide: hidden size before and after.
        head: size of a head before.
    """
    if any(part in name for part in BEHIND):
        square = "mm_projector.2.weight" in name
        return filled(tensor, wide, wide if square else None)
    if not name.startswith(("model.layers.", "model.norm.", "model.embed_tokens.", "lm_head.")):
        return tensor
    if "norm" in name:
        return filled(tensor * math.sqrt(size / wide), wide, None)
    if "q_proj" in name:
        tensor = tensor * math.sqrt(HEAD / head)
    if any(part in name for part in ("q_proj", "k_proj", "v_proj")):
        tensor = heads_filled(tensor, head)
        return tensor if tensor.dim() == 1 else filled(tensor, None, wide)
    if "o_proj" in name:
        return filled(heads_filled(tensor.t().contiguous(), head).t().contiguous(), wide, None)
    if "down_proj" in name:
        return filled(tensor, wide, None)
    return filled(tensor, None, wide)  # gate, up, embedding, head


def heads_filled(tensor: Tensor, head: int) -> Tensor:
    """`[heads * head, ...]` to `[heads * 32, ...]`."""
    rows = tensor.view(-1, head, *tensor.shape[1:])
    out = torch.zeros(rows.shape[0], HEAD, *tensor.shape[1:])
    out[:, :head] = rows
    return out.flatten(0, 1)


def filled(tensor: Tensor, rows: int | None, columns: int | None) -> Tensor:
    """Zeros behind the first, and behind the last axis."""
    shape = list(tensor.shape)
    shape[0] = rows or shape[0]
    if tensor.dim() > 1:
        shape[-1] = columns or shape[-1]
    out = torch.zeros(shape)
    out[tuple(slice(n) for n in tensor.shape)] = tensor
    return out
