"""From a name to a checkpoint whose configuration is read and whose tensors are listed.

Owns where the files of each layout lie (spec sections 1 and 10), including folders that config.json names by a
path of somebody else's machine. Reads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, cast

import torch
from torch import Tensor

from vita import config as configs
from vita.checkpoint import hub
from vita.checkpoint.safetensors import TensorStore, list_tensors, read_json
from vita.config import VitaConfig
from vita.errors import CheckpointError, DownloadError
from vita.options import SCHEMES, Quantize

DEFAULT = Path(__file__).parents[1] / "default"
# Where the vision folder's configuration comes from when a checkpoint names it without bringing it along.
VISION_HUB_OWNER = "OpenGVLab"


@dataclass(frozen=True)
class Checkpoint:
    """A model folder, understood but not loaded.

    `untrained` names modalities whose weights are there but were never trained (our embedded model's key
    `vita_untrained`); using them is refused rather than answered with an invention.
    """

    folder: Path
    config: VitaConfig
    store: TensorStore
    cmvn: tuple[Tensor, Tensor] | None  # mean and inverse deviation, float32 [80], for checkpoints without tensors
    untrained: tuple[str, ...] = ()
    quantized: Quantize | None = None  # how linear layers are stored (our key `vita_quantization`)
    side_folders: tuple[tuple[str, Path], ...] = ()  # name in config.json and place of the vision and audio folder


def resolve_folder(name: str | Path | None, *, offline: bool = False) -> Path:
    """A folder on disk for a path, a hub id, or None (the embedded checkpoint).

    Raises:
        CheckpointError: no such folder. DownloadError: a hub id that cannot be fetched.
    """
    if name is None or str(name) == "default":
        return DEFAULT
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError("is a file, not a checkpoint folder", where=name, fix="pass the folder around it")
    if isinstance(name, str) and hub.is_hub_id(name):
        return hub.fetch(name, offline=offline)
    raise CheckpointError("no such folder", where=name, fix="pass a checkpoint folder or a hub id like owner/name")


def open_checkpoint(name: str | Path | None, *, offline: bool = False) -> Checkpoint:
    """Find a checkpoint and read everything but its weights.

    Raises:
        CheckpointError: it is not a VITA-1.5 checkpoint, or a file of it is missing or damaged.
        DownloadError: a part must come from the hub and cannot.
    """
    folder = resolve_folder(name, offline=offline)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "is not a checkpoint, it has no config.json", where=folder, fix="pass the folder that holds config.json"
        )
    config = read_json(folder / "config.json")
    configs.check_model_type(config, folder / "config.json")
    generation = _optional_json(folder / "generation_config.json")
    if configs.is_serving_layout(config):
        return _open_serving(folder, config, generation)
    return _open_main(folder, config, generation, offline)


def _open_main(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None, offline: bool) -> Checkpoint:
    vision = _find_side_folder(folder, config, "mm_vision_tower", "config.json", offline)
    audio = _find_side_folder(folder, config, "mm_audio_encoder", "train.yaml", offline)
    train = _read_yaml(audio / "train.yaml")
    preprocessor = read_json(vision / "preprocessor_config.json")
    where = folder / "config.json"
    parsed = configs.read_main(config, read_json(vision / "config.json"), preprocessor, train, generation, where)
    cmvn_file = audio / "global_cmvn"
    cmvn = _read_cmvn(cmvn_file) if cmvn_file.is_file() else None
    store = TensorStore(list_tensors(folder))
    untrained = tuple(config.get("vita_untrained", ()))
    sides = tuple(
        (PureWindowsPath(config[key]).name, place)
        for key, place in (("mm_vision_tower", vision), ("mm_audio_encoder", audio))
    )
    return Checkpoint(folder, parsed, store, cmvn, untrained, _quantization(config, where), sides)


def _open_serving(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None) -> Checkpoint:
    preprocessor = read_json(folder / "preprocessor_config.json")
    features = _optional_json(folder / "feature_extractor" / "preprocessor_config.json") or {}
    parsed = configs.read_serving(config, preprocessor, features, generation, folder / "config.json")
    cmvn = None
    if "cmvn_means" in features and "cmvn_istds" in features:
        cmvn = (torch.tensor(features["cmvn_means"]), torch.tensor(features["cmvn_istds"]))
    quantized = _quantization(config, folder / "config.json")
    return Checkpoint(folder, parsed, TensorStore(list_tensors(folder)), cmvn, quantized=quantized)


def _find_side_folder(folder: Path, config: dict[str, Any], key: str, needed: str, offline: bool) -> Path:
    """The vision or audio folder: as named, by its last name inside or beside the checkpoint, or on the hub."""
    named = config.get(key)
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"names no {key}", where=folder / "config.json")
    last = PureWindowsPath(named).name  # understands both kinds of slashes
    candidates = [folder / last, folder.resolve().parent / last, folder / named, folder.resolve().parent / named]
    candidates.append(Path(named).expanduser())
    for candidate in candidates:
        if (candidate / needed).is_file():
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
        if (found / needed).is_file():
            return found
    raise CheckpointError(
        f"the folder {last!r} that config.json names as {key} (with {needed}) is neither inside the checkpoint nor "
        "beside it", where=folder, fix=f"put it into {folder.name}/",
    )  # fmt: skip


def _quantization(config: dict[str, Any], where: Path) -> Quantize | None:
    found = config.get("vita_quantization")
    if found is None:
        return None
    if found not in SCHEMES:
        raise CheckpointError(
            f"vita_quantization {found!r} is not supported", where=where, fix=f"convert it to {' or '.join(SCHEMES)}"
        )
    return cast(Quantize, found)


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError("is not readable YAML", where=file, fix="download it again") from error
    if not isinstance(data, dict):
        raise CheckpointError("is not a YAML mapping", where=file)
    return data


def _read_cmvn(file: Path) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation from the JSON statistics, float64 inside (spec section 6.1)."""
    stats = read_json(file)
    try:
        count = float(stats["frame_num"])
        mean = torch.tensor(stats["mean_stat"], dtype=torch.float64) / count
        var = torch.tensor(stats["var_stat"], dtype=torch.float64) / count - mean**2
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError("needs mean_stat, var_stat and frame_num", where=file) from error
    return mean.float(), (1.0 / var.clamp(min=1e-20).sqrt()).float()


def _optional_json(file: Path) -> dict[str, Any] | None:
    return read_json(file) if file.is_file() else None
