"""Merging a peft-format LoRA folder into the base weights while they load.

Owns the reading of `adapter_config.json` and the adapter's tensors. The merge happens tensor by tensor as the
base is mapped, so no second copy of the model ever exists.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vita.checkpoint.files import read_json
from vita.checkpoint.open import Checkpoint
from vita.checkpoint.safetensors import TensorStore, read_header
from vita.errors import CheckpointError

NON_LORA = ("non_lora_trainables.safetensors", "non_lora_trainables.bin")


def merge_lora(base: Checkpoint, folder: Path) -> Checkpoint:
    """The base checkpoint with `W + scale · B · A` in place of every adapted W.

    Args:
        base: where the full weights lie.
        folder: adapter_config.json, adapter_model.safetensors (or .bin), optional non-LoRA tensors.

    Raises:
        CheckpointError: not a LoRA folder, of a kind that is not supported, or it adapts what the base has not.
    """
    if base.quantized:
        raise CheckpointError("is quantized, and an adapter is merged into whole weights", where=base.folder)
    settings = read_json(folder / "adapter_config.json")
    if settings.get("peft_type", "LORA") != "LORA" or settings.get("use_dora"):
        raise CheckpointError("only plain LoRA adapters are supported", where=folder / "adapter_config.json")
    for key in ("rank_pattern", "alpha_pattern", "fan_in_fan_out"):
        if settings.get(key):
            raise CheckpointError(f"{key} is not supported", where=folder / "adapter_config.json")
    tensors = _read_tensors(folder, ("adapter_model.safetensors", "adapter_model.bin"))
    if tensors is None:
        raise CheckpointError("holds no adapter_model.safetensors", where=folder)
    pairs = _pair(tensors, folder)
    whole = {_strip(n): t for n, t in (_read_tensors(folder, NON_LORA) or {}).items()}
    # Modules that were trained whole and biases stand among the adapter's tensors, with or without an infix.
    whole |= {_strip(n).replace(".modules_to_save", ""): t for n, t in tensors.items() if "lora_" not in n}
    unused = [n for n in tensors if "lora_" in n and ".lora_A." not in n and ".lora_B." not in n]
    if unused:
        raise CheckpointError(f"holds {unused[0]!r}, a kind of adapter that is not supported", where=folder)
    strange = [n for n in [*pairs, *whole] if n not in base.store]
    if strange:
        raise CheckpointError(f"adapts {strange[0]!r}, which the base does not have", where=folder)
    scale = _scale(settings, folder)

    def edit(name: str, tensor: Tensor) -> Tensor:
        if name in whole:
            tensor = whole[name].to(tensor.dtype)
        if name in pairs:
            a, b = pairs[name]
            tensor = (tensor.float() + scale * (b.float() @ a.float())).to(tensor.dtype)
        return tensor

    for name, (a, b) in pairs.items():
        if (b.shape[0], a.shape[1]) != base.store.entries[name].shape or a.shape[0] != b.shape[1]:
            raise CheckpointError(f"the adapter of {name!r} has another shape than the base", where=folder)
    for name, tensor in whole.items():
        if tuple(tensor.shape) != base.store.entries[name].shape:
            raise CheckpointError(f"its tensor {name!r} has another shape than the base's", where=folder)
    store = TensorStore(base.store.entries, edit)
    return replace(base, store=store)


def _scale(settings: dict[str, object], folder: Path) -> float:
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or rank <= 0 or not isinstance(alpha, (int, float)):
        raise CheckpointError("needs r and lora_alpha", where=folder / "adapter_config.json")
    return alpha / rank**0.5 if settings.get("use_rslora") else alpha / rank


def _pair(tensors: dict[str, Tensor], folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Base tensor name to its A `[r, in]` and B `[out, r]`."""
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        for half in ("lora_A", "lora_B"):
            if f".{half}." in name:
                stem = _strip(name).split(f".{half}.")[0] + ".weight"
                halves.setdefault(stem, {})[half] = tensor
    for stem, found in halves.items():
        if len(found) != 2:
            raise CheckpointError(f"has only one half of the adapter of {stem!r}", where=folder)
    if not halves:
        raise CheckpointError("holds no lora_A and lora_B tensors", where=folder)
    return {stem: (found["lora_A"], found["lora_B"]) for stem, found in halves.items()}


def _strip(name: str) -> str:
    name = name.removeprefix("base_model.")
    return name.removeprefix("model.") if name.startswith(("model.model.", "model.lm_head.")) else name


def _read_tensors(folder: Path, names: tuple[str, ...]) -> dict[str, Tensor] | None:
    for name in names:
        file = folder / name
        if not file.is_file():
            continue
        if file.suffix == ".safetensors":
            store = TensorStore(read_header(file))
            return {n: store.get(n) for n in store}
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a file it refuses to unpickle
            raise CheckpointError("cannot be loaded as plain tensors", where=file, fix="use safetensors") from error
        return {n: t for n, t in loaded.items() if isinstance(t, Tensor)}
    return None
