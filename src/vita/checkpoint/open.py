"""Opening a checkpoint: find its folder, read its configuration, list its tensors.

Knows where the files of each layout are (spec sections 1 and 10), including folders that config.json names by a path
of another machine. Reads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from vita.checkpoint import hub, read_config
from vita.checkpoint.files import expand_user, is_file, read_json
from vita.checkpoint.locate import find_folder
from vita.checkpoint.safetensors import TensorStore, list_tensors
from vita.checkpoint.settings import Settings, show
from vita.config import VitaConfig
from vita.errors import CheckpointError, DownloadError
from vita.options import SCHEMES, Quantize

# Whose repository holds the vision folder's configuration when a checkpoint names the folder without holding it.
VISION_HUB_OWNER = "OpenGVLab"
ADAPTER_CONFIG = "adapter_config.json"  # of a LoRA folder
MAX_NAME = 255  # characters of a folder's name
YAML_ERRORS = (ValueError, TypeError, KeyError, AttributeError, OverflowError)  # of PyYAML's value constructors


@dataclass(frozen=True)
class Checkpoint:
    """A model folder with its configuration read and no weights loaded.

    Attributes:
        folder: holds config.json and the weights.
        config: the configuration of all parts.
        store: the tensors.
        cmvn: mean and inverse deviation, float32 `[input_dim]`, for checkpoints that hold no such tensors.
        untrained: modalities whose weights were never trained (our key `vita_untrained`). The engine refuses them.
        quantized: how linear layers are stored (our key `vita_quantization`).
        side_folders: name in config.json and path of the vision and audio folder.
    """

    folder: Path
    config: VitaConfig
    store: TensorStore
    cmvn: tuple[Tensor, Tensor] | None
    untrained: tuple[str, ...] = ()
    quantized: Quantize | None = None
    side_folders: tuple[tuple[str, Path], ...] = ()


def open_checkpoint(name: str | Path | None, *, offline: bool = False, weights: bool = True) -> Checkpoint:
    """Find a checkpoint and read its configuration and file headers, no weights.

    Args:
        name: a folder, a hub id, or None for the embedded checkpoint.
        offline: use only the hub's cache.
        weights: they must be there, and those of a hub id are downloaded; otherwise `store` is empty without them.

    Raises:
        CheckpointError: it is not a VITA-1.5 checkpoint, or a file of it is missing or damaged.
        DownloadError: a part must come from the hub and cannot.
    """
    folder = find_folder(name) or hub.fetch(str(name), weights=weights, offline=offline)
    if not is_file(folder / "config.json"):
        if is_file(folder / ADAPTER_CONFIG):
            raise CheckpointError(
                "is a LoRA folder", where=folder,
                fix="name the checkpoint that it was trained on as `base`",
            )  # fmt: skip
        raise CheckpointError(
            "is not a checkpoint, it has no config.json", where=folder, fix="pass the folder that holds config.json"
        )
    config = _settings(folder / "config.json")
    read_config.check_model_type(config)
    generation = _settings(folder / "generation_config.json") if is_file(folder / "generation_config.json") else None
    if read_config.is_serving_layout(config):
        return _open_serving(folder, config, generation, weights)
    return _open_main(folder, config, generation, offline, weights)


def _open_main(folder: Path, config: Settings, generation: Settings | None, offline: bool, weights: bool) -> Checkpoint:
    vision = _find_side_folder(folder, config, "mm_vision_tower", "config.json", offline)
    audio = _find_side_folder(folder, config, "mm_audio_encoder", "train.yaml", offline)
    train = Settings(_read_yaml(audio / "train.yaml"), audio / "train.yaml")
    preprocessor = _settings(vision / "preprocessor_config.json")
    parsed = read_config.read_main(config, _settings(vision / "config.json"), preprocessor, train, generation)
    cmvn_file = audio / "global_cmvn"
    cmvn = _read_cmvn(_settings(cmvn_file), parsed.audio.input_dim) if is_file(cmvn_file) else None
    sides = tuple(
        (PureWindowsPath(config.text(key)).name, path)
        for key, path in (("mm_vision_tower", vision), ("mm_audio_encoder", audio))
    )
    untrained = config.texts("vita_untrained")
    return Checkpoint(folder, parsed, _store(folder, weights), cmvn, untrained, _quantization(config), sides)


def _open_serving(folder: Path, config: Settings, generation: Settings | None, weights: bool) -> Checkpoint:
    preprocessor = _settings(folder / "preprocessor_config.json")
    features_file = folder / "feature_extractor" / "preprocessor_config.json"
    features = _settings(features_file) if is_file(features_file) else Settings({}, features_file)
    parsed = read_config.read_serving(config, preprocessor, features, generation)
    cmvn = None
    if "cmvn_means" in features and "cmvn_istds" in features:
        size = parsed.audio.input_dim
        cmvn = (torch.tensor(features.vector("cmvn_means", size)), torch.tensor(features.vector("cmvn_istds", size)))
    untrained = config.texts("vita_untrained")
    return Checkpoint(folder, parsed, _store(folder, weights), cmvn, untrained, _quantization(config))


def _store(folder: Path, weights: bool) -> TensorStore:
    """The tensors. Unless `weights` are needed, none where they are missing or not whole."""
    try:
        return TensorStore(list_tensors(folder))
    except CheckpointError:
        if weights:
            raise
        return TensorStore({})


def _find_side_folder(folder: Path, config: Settings, key: str, needed: str, offline: bool) -> Path:
    """The vision or audio folder: by its last name inside or beside the checkpoint, as named, or on the hub."""
    named = config.text(key, "")
    last = PureWindowsPath(named).name  # understands both kinds of slashes
    if last in ("", ".", "..") or len(last) > MAX_NAME or not named.isprintable():
        config.fail(key, f"{show(named)} names no folder")
    candidates = [folder / last, folder.resolve().parent / last, folder / named, folder.resolve().parent / named]
    candidates.append(expand_user(Path(named)))
    for candidate in candidates:
        if is_file(candidate / needed):
            return candidate
    if key == "mm_vision_tower":
        repo = named if hub.is_hub_id(named) and named.count("/") == 1 else f"{VISION_HUB_OWNER}/{last}"
        try:
            found = hub.fetch(repo, weights=False, offline=offline)
        except DownloadError as error:
            raise CheckpointError(
                f"the folder {last!r} that config.json names as {key} is neither inside the checkpoint, beside it, "
                f"nor on the hub as {repo}", where=folder,
                fix=f"put its config.json and preprocessor_config.json into {folder.name}/{last}/",
            ) from error  # fmt: skip
        if is_file(found / needed):
            return found
    raise CheckpointError(
        f"the folder {last!r} that config.json names as {key} (with {needed}) is neither inside the checkpoint nor "
        "beside it", where=folder, fix=f"put it into {folder.name}/",
    )  # fmt: skip


def _quantization(config: Settings) -> Quantize | None:
    if "vita_quantization" not in config:
        return None
    found = config.text("vita_quantization")
    if found not in SCHEMES:
        config.fail("vita_quantization", f"{show(found)} is not supported", fix=f"convert it to {' or '.join(SCHEMES)}")
    return found


def _settings(file: Path) -> Settings:
    return Settings(read_json(file), file)


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError, yaml.YAMLError, *YAML_ERRORS) as error:
        raise CheckpointError("is not readable YAML", where=file, fix="download it again") from error
    if not isinstance(data, dict):
        raise CheckpointError("is not a YAML mapping", where=file)
    return {str(key): value for key, value in data.items()}


def _read_cmvn(stats: Settings, size: int) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation from the JSON statistics, in float64 (spec section 6.1)."""
    count = stats.number("frame_num", low=1, high=1e15)
    mean = torch.tensor(stats.vector("mean_stat", size), dtype=torch.float64) / count
    var = torch.tensor(stats.vector("var_stat", size), dtype=torch.float64) / count - mean**2
    return mean.float(), (1.0 / var.clamp(min=1e-20).sqrt()).float()
