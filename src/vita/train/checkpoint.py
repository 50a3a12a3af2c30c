"""The state of a run on disk, written so that a kill at any moment leaves a complete one.

`save_state` writes one file. `save_shards` writes the same state as several files under a size, weights apart from the
rest, and a manifest that takes the old one's place when all of them are there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FILE = "state.pt"
FOLDER, MANIFEST = "state", "manifest.json"
SHARD_BYTES = 15_000_000


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: batches trained.
        index: number of the next sample or batch.
        spent: seconds of the budget.
        phase: of the curriculum.
        since: the step at which the phase began.
        starts: for each phase but the first the number of the first batch that was drawn for it, where batches are
            drawn before they are needed.
    """

    step: int = 0
    index: int = 0
    spent: float = 0.0
    phase: int = 0
    since: int = 0
    starts: list[int] = field(default_factory=list)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes, by name: what a run over frozen weights has to keep."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def make_state(
    weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, progress: Progress, **notes: str
) -> dict[str, Any]:
    """What a run needs to go on.

    Args:
        weights: by name; `model.state_dict()`, or `trained_state(model)` where most weights are frozen.
        optimizer: its moments.
        progress: where the run is.
        notes: kept as they are, such as the command.
    """
    return {
        "model": dict(weights),
        "optimizer": optimizer.state_dict(),
        "progress": {k: v for k, v in asdict(progress).items() if k != "starts" or v},
        "torch_rng": torch.get_rng_state(),
        **notes,
    }


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `state.pt` beside the old one, which it then replaces."""
    _write(folder / FILE, dict(state))


def read_state(folder: Path) -> dict[str, Any]:
    """What `save_state` wrote, on the CPU."""
    state: dict[str, Any] = torch.load(folder / FILE, map_location="cpu", weights_only=True)
    return state


def restore(
    state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer | None, *, strict: bool = True
) -> Progress:
    """Fill model, optimiser and random generator; returns the progress.

    Args:
        state: of `make_state`.
        model: of the same shapes.
        optimizer: with the same groups; None leaves its moments out.
        strict: whether the state must hold every weight; not so for `trained_state`.

    Raises:
        ValueError: the state holds a weight that the model has not.
    """
    loaded = model.load_state_dict(state["model"], strict=strict)
    if loaded.unexpected_keys:
        raise ValueError(f"the state holds weights of another model: {', '.join(loaded.unexpected_keys[:5])}")
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["torch_rng"])
    return Progress(**state["progress"])


def split_float32(values: Tensor) -> tuple[Tensor, Tensor]:
    """float32 as bfloat16 (rounded to nearest, ties away from zero) and the int16 that the rounding took off.

    Both in the shape of `values`. The first is the weight for inference, both are the float32 to the bit.
    """
    bits = values.contiguous().view(torch.int32)
    low = bits.bitwise_and(0xFFFF)
    low = torch.where(low >= 0x8000, low - 0x10000, low)
    high = (bits - low).bitwise_right_shift(16)
    return high.to(torch.int16).view(torch.bfloat16), low.to(torch.int16)


def join_float32(high: Tensor, low: Tensor) -> Tensor:
    """The float32 that `split_float32` took apart."""
    bits = high.contiguous().view(torch.int16).to(torch.int32).bitwise_left_shift(16) + low.to(torch.int32)
    return bits.view(torch.float32)


def save_shards(run: Path, state: Mapping[str, Any], limit: int = SHARD_BYTES) -> None:
    """Write the state as `state/*.pt` of at most about `limit` bytes each, then the manifest, then remove old files.

    `weights-*` hold bfloat16, `rest-*` what makes them float32 again, the moments and the progress.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    high, low = {}, {}
    for name, value in state["model"].items():
        if value.dtype == torch.float32:
            high[name], low[name] = split_float32(value.detach().cpu())
        else:
            high[name] = value.detach().cpu()
    moments: dict[str, Tensor] = {}
    steps: dict[str, Tensor] = {}
    for number, kept in state["optimizer"]["state"].items():
        for name, value in kept.items():
            (moments if value.dim() else steps)[f"{number}/{name}"] = value.detach().cpu()
    tag = f"{state['progress']['step']:07d}"
    rest = {"low": low, "moments": moments}
    files: dict[str, list[str]] = {"weights": [], "rest": []}
    for kind, tensors in (("weights", high), ("rest", {f"{k}/{n}": t for k, v in rest.items() for n, t in v.items()})):
        for number, shard in enumerate(_shards(tensors, limit)):
            files[kind].append(f"{kind}-{tag}-{number:02d}.pt")
            _write(folder / files[kind][-1], shard)
    small = {k: v for k, v in state.items() if k not in ("model", "optimizer")}
    small |= {"groups": state["optimizer"]["param_groups"], "steps": steps}
    files["small"] = [f"small-{tag}.pt"]
    _write(folder / files["small"][0], small)
    _write_text(folder / MANIFEST, json.dumps(files, indent=1))
    kept_files = {MANIFEST, *(name for names in files.values() for name in names)}
    for old in folder.iterdir():
        if old.name not in kept_files:
            old.unlink()


def read_shards(run: Path) -> dict[str, Any]:
    """What `save_shards` wrote, on the CPU.

    Where files of the optimiser are missing (only the weights were brought along), weights are as exact as bfloat16 and
    the state has no key "optimizer".
    """
    folder = run / FOLDER
    files: dict[str, list[str]] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    read = {name: torch.load(folder / name, map_location="cpu", weights_only=True)
            for names in files.values() for name in names if (folder / name).exists()}  # fmt: skip
    high = {k: v for name in files["weights"] for k, v in read[name].items()}
    state: dict[str, Any] = dict(read[files["small"][0]])
    groups, steps = state.pop("groups"), state.pop("steps")
    if not all(name in read for name in files["rest"]):
        return state | {"model": {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in high.items()}}
    rest = {k: v for name in files["rest"] for k, v in read[name].items()}
    low = {k.removeprefix("low/"): v for k, v in rest.items() if k.startswith("low/")}
    state["model"] = {k: join_float32(v, low[k]) if k in low else v for k, v in high.items()}
    kept: dict[int, dict[str, Tensor]] = {}
    for key, value in [*steps.items(), *((k.removeprefix("moments/"), v) for k, v in rest.items())]:
        number, _, name = key.partition("/")
        if number != "low":
            kept.setdefault(int(number), {})[name] = value
    state["optimizer"] = {"state": kept, "param_groups": groups}
    return state


def has_shards(run: Path) -> bool:
    """Whether a state was saved in shards."""
    return (run / FOLDER / MANIFEST).exists()


def _shards(tensors: Mapping[str, Tensor], limit: int) -> Iterable[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        needed = tensor.numel() * tensor.element_size()
        if shard and size + needed > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.clone()  # a view would bring its storage along
        size += needed
    yield shard


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as stream:
        torch.save(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
