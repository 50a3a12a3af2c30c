"""Merging a LoRA adapter (a peft folder) into the base weights while they are read.

The merge happens tensor by tensor, so there is never a second copy of the model. Only adapters that add
`scale · B · A` to weights of this base are merged; everything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vita.checkpoint.files import is_file, read_json
from vita.checkpoint.open import ADAPTER_CONFIG, Checkpoint, open_checkpoint
from vita.checkpoint.safetensors import TensorStore, read_header
from vita.checkpoint.settings import Settings, show
from vita.errors import CheckpointError, RequestError

ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
NON_LORA = ("non_lora_trainables.safetensors", "non_lora_trainables.bin")
MAX_RANK = 1 << 16

# Keys of adapter_config.json that the merge reads, or that do not change it.
KNOWN_KEYS = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_class", "base_model_name_or_path", "bias", "corda_config",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "megatron_core",
    "modules_to_save", "parent_library", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "use_dora", "use_rslora",
})  # fmt: skip
# Initialisations that leave the base weights as they are. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change them.
PLAIN_INIT = ("gaussian", "eva", "orthogonal", "true", "false")


@dataclass(frozen=True)
class _LoraConfig:
    """What the merge needs of adapter_config.json."""

    rank: int
    scale: float  # of B · A
    lora_bias: bool  # B has a bias


@dataclass(frozen=True)
class _Pair:
    """One adapted linear layer: A `[r, in]`, B `[out, r]`, and the bias of B `[out]` if there is one."""

    a: Tensor
    b: Tensor
    bias: Tensor | None


def open_merged(model: str | Path | None, base: str | Path | None, *, offline: bool = False) -> Checkpoint:
    """A checkpoint, or with `base` a LoRA folder merged into it.

    Args:
        model: a folder, a hub id, or None for the embedded checkpoint; with `base`, the LoRA folder.
        base: the checkpoint that the adapter was trained on: a folder or a hub id.
        offline: use only the hub's cache.

    Raises:
        RequestError: `base` without a model. CheckpointError: as `merge_lora`. VitaError: as `open_checkpoint`.
    """
    if base is None:
        return open_checkpoint(model, offline=offline)
    if model is None:
        raise RequestError("needs a model, the LoRA folder", where="base", fix="name that folder as `model`")
    return merge_lora(open_checkpoint(base, offline=offline), Path(model))


def merge_lora(base: Checkpoint, folder: Path) -> Checkpoint:
    """The base checkpoint with `W + scale · B · A` in place of every adapted W.

    Args:
        base: the checkpoint that the adapter was trained on.
        folder: adapter_config.json, adapter_model.safetensors (or .bin), optional non-LoRA tensors.

    Raises:
        CheckpointError: not a LoRA folder, of a kind that is not supported, or it adapts tensors that the base does
            not have.
    """
    if base.quantized:
        raise CheckpointError(
            "is quantised, and an adapter merges into unquantised weights only", where=base.folder,
            fix="pass the unquantised base",
        )  # fmt: skip
    config = _read_settings(folder)
    tensors = _read_tensors(folder, ADAPTER)
    if tensors is None:
        raise CheckpointError("holds no adapter_model.safetensors", where=folder)
    pairs = _pair(tensors, folder, config)
    replaced = _replacements(tensors, _read_tensors(folder, NON_LORA) or {}, folder)
    added: dict[str, Tensor] = {}  # biases of B, by the name of the base's bias
    for stem, pair in pairs.items():
        if pair.bias is not None:
            added[f"{stem}.bias"] = pair.bias
    for name in [*(f"{stem}.weight" for stem in pairs), *replaced, *added]:
        if name not in base.store:
            raise CheckpointError(f"adapts {show(name)}, which the base does not have", where=folder)
    for name, tensor in [*((f"{stem}.weight", _matmul_shape(pair)) for stem, pair in pairs.items()), *replaced.items(),
                         *added.items()]:  # fmt: skip
        if tuple(tensor.shape) != base.store.entries[name].shape:
            raise CheckpointError(f"its tensor for {show(name)} has another shape than the base", where=folder)

    def edit(name: str, tensor: Tensor) -> Tensor:
        dtype = tensor.dtype
        if name in replaced:
            tensor = replaced[name].to(dtype)
        pair = pairs.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if pair is not None:
            tensor = (tensor.float() + config.scale * (pair.b.float() @ pair.a.float())).to(dtype)
        if name in added:
            tensor = (tensor.float() + config.scale * added[name].float()).to(dtype)
        return tensor

    return replace(base, store=TensorStore(base.store.entries, edit))


def _read_settings(folder: Path) -> _LoraConfig:
    file = folder / ADAPTER_CONFIG
    settings = Settings(read_json(file), file)
    if settings.text("peft_type", "LORA") != "LORA" or settings.boolean("use_dora", False):
        raise CheckpointError("only plain LoRA adapters are supported", where=file)
    for key in ("rank_pattern", "alpha_pattern", "fan_in_fan_out"):
        if settings.data.get(key):
            settings.fail(key, "is not supported")
    init = settings.data.get("init_lora_weights")
    if init is not None and not isinstance(init, bool) and str(init).lower() not in PLAIN_INIT:
        settings.fail(
            "init_lora_weights", f"{show(init)} is not supported, it changes the base weights",
            fix="convert the adapter to plain LoRA with peft, or merge it into its own base",
        )  # fmt: skip
    for key, value in settings.data.items():
        if key not in KNOWN_KEYS and value:
            raise CheckpointError(f"{show(key)} is not supported", where=file, fix="merge the adapter with peft")
    if "r" not in settings or "lora_alpha" not in settings:
        raise CheckpointError("needs r and lora_alpha", where=file)
    rank = settings.integer("r", high=MAX_RANK)
    alpha = settings.number("lora_alpha", low=-1e6, high=1e6)
    scale = alpha / rank**0.5 if settings.boolean("use_rslora", False) else alpha / rank
    return _LoraConfig(rank, scale, settings.boolean("lora_bias", False))


def _pair(tensors: Mapping[str, Tensor], folder: Path, config: _LoraConfig) -> dict[str, _Pair]:
    """Module name in the base to its adapter."""
    modules: dict[str, dict[str, Tensor]] = {}
    adapters: set[str] = set()
    for name, tensor in tensors.items():
        half = "lora_A" if ".lora_A." in name else "lora_B"
        stem, found, rest = name.partition(f".{half}.")
        if not found:
            continue
        adapter, _, leaf = rest.rpartition(".")  # `default.weight`, or `weight` alone
        if leaf != "weight" and (half, leaf) != ("lora_B", "bias"):
            raise CheckpointError(f"holds {show(name)}, a kind of adapter that is not supported", where=folder)
        adapters.add(adapter)
        if len(adapters) > 1:
            listed = ", ".join(show(a or "(unnamed)") for a in sorted(adapters))
            raise CheckpointError(f"holds several adapters ({listed})", where=folder, fix="save one of them alone")
        module = modules.setdefault(_base_name(stem), {})
        key = half if leaf == "weight" else "bias"
        if key in module:
            raise CheckpointError(f"holds {key} of {show(_base_name(stem))} twice", where=folder)
        module[key] = tensor
    if not modules:
        raise CheckpointError("holds no lora_A and lora_B tensors", where=folder)
    for stem, halves in modules.items():
        if not {"lora_A", "lora_B"} <= set(halves):
            raise CheckpointError(f"has only one half of the adapter of {show(stem)}", where=folder)
        _check_adapter(stem, halves, folder, config)
    return {stem: _Pair(halves["lora_A"], halves["lora_B"], halves.get("bias")) for stem, halves in modules.items()}


def _check_adapter(stem: str, halves: Mapping[str, Tensor], folder: Path, config: _LoraConfig) -> None:
    """Shapes, finite values, and a bias of B where adapter_config.json says so."""
    a, b = halves["lora_A"], halves["lora_B"]
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != config.rank or b.shape[1] != config.rank:
        raise CheckpointError(
            f"the adapter of {show(stem)} has the shapes {list(a.shape)} and {list(b.shape)}, and r is {config.rank}",
            where=folder,
        )
    if ("bias" in halves) != config.lora_bias:
        there = "a" if "bias" in halves else "no"
        raise CheckpointError(
            f"holds {there} lora_B.bias of {show(stem)}, and lora_bias is {show(config.lora_bias)}", where=folder
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in halves.values()):
        raise CheckpointError(f"the adapter of {show(stem)} holds NaN or infinite values", where=folder)


def _matmul_shape(pair: _Pair) -> Tensor:
    """A tensor without memory, of the shape of `B · A`."""
    return torch.empty(pair.b.shape[0], pair.a.shape[1], device="meta")


def _replacements(adapter: Mapping[str, Tensor], non_lora: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Tensors that take the place of the base's: biases and modules that were trained as a whole."""
    replaced = {_base_name(name): tensor for name, tensor in non_lora.items()}
    for name, tensor in adapter.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        if "lora_" in name or "token_adapter" in name:
            raise CheckpointError(f"holds {show(name)}, a kind of adapter that is not supported", where=folder)
        stem, found, rest = name.partition(".modules_to_save.")
        # `modules_to_save.weight`, or `modules_to_save.default.weight`
        replaced[_base_name(f"{stem}.{rest.rpartition('.')[2]}" if found else name)] = tensor
    return replaced


def _base_name(name: str) -> str:
    """The base's name of an adapter's tensor or module."""
    name = name.removeprefix("base_model.").replace(".base_layer.", ".")
    return name.removeprefix("model.") if name.startswith(("model.model.", "model.lm_head")) else name


def _read_tensors(folder: Path, names: tuple[str, ...]) -> dict[str, Tensor] | None:
    """Tensors of the first of these files that is there."""
    for name in names:
        file = folder / name
        if not is_file(file):
            continue
        if file.suffix == ".safetensors":
            store = TensorStore(read_header(file))
            return {n: store.get(n) for n in store}
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a file it refuses to unpickle
            raise CheckpointError("cannot be loaded as plain tensors", where=file, fix="use safetensors") from error
        if not isinstance(loaded, dict) or not all(isinstance(n, str) for n in loaded):
            raise CheckpointError("is not a mapping of names to tensors", where=file, fix="use safetensors")
        return {n: t for n, t in loaded.items() if isinstance(t, Tensor)}
    return None
