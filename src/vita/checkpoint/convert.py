"""Writing a quantised copy of a checkpoint in eight or four bits (`vita convert`).

The copy holds shards of quantised tensors that load memory-mapped, and the small files of the checkpoint. Tensors are
read and written one by one, so the memory needed does not grow with the model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from vita.checkpoint.files import exists, read_json
from vita.checkpoint.load import Progress
from vita.checkpoint.locate import find_speech
from vita.checkpoint.names import checkpoint_name
from vita.checkpoint.open import Checkpoint
from vita.checkpoint.partial import partial_folder, remove_leftovers
from vita.checkpoint.safetensors import write_tensors
from vita.errors import CheckpointError, RequestError, ResourceError, VitaError
from vita.model.vita import VitaModel
from vita.options import Quantize
from vita.quant.scheme import STORED, quantize_weight
from vita.runtime.disk import full_sentence, is_full

SHARD_BYTES = 2 << 30
SMALL_FILES = ("*.json", "*.txt", "*.yaml", "global_cmvn")
NOT_COPIED = ("model.safetensors.index.json",)


def convert(checkpoint: Checkpoint, out: Path, quantize: Quantize, progress: Progress | None = None) -> None:
    """Write the quantised checkpoint. `out` appears only when all of it is written.

    Args:
        checkpoint: opened and checked.
        out: a folder that does not exist yet; a symbolic link to one is followed.
        quantize: how linear layers are stored.
        progress: called as `progress("tensors", done, total)`.

    Raises:
        RequestError: `out` exists, or the checkpoint is quantised already. ResourceError: the disk is too full, or the
        copy cannot be written.
    """
    if checkpoint.quantized:
        raise RequestError("is quantised already", where=checkpoint.folder)
    if exists(out):
        raise _exists_already(out)
    target = _make_parent(out)
    remove_leftovers(target.parent)
    need = sum(e.bytes for e in checkpoint.store.entries.values()) * 6 // 10 + _speech_bytes(checkpoint)
    free = shutil.disk_usage(target.parent).free
    if need > free:
        raise ResourceError(
            f"about {need / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free",
            where=target.parent, fix="free some",
        )  # fmt: skip
    with partial_folder(target.parent) as partial:
        try:
            _copy_small_files(checkpoint, partial, quantize)
            _write_shards(checkpoint, partial, quantize, progress)
            partial.rename(target)
        except OSError as error:
            raise _write_error(error, partial, target) from error


def _exists_already(out: Path) -> RequestError:
    return RequestError("exists already", where=out, fix="name a folder that does not exist")


def _write_error(error: OSError, partial: Path, target: Path) -> VitaError:
    """The sentence for a copy that cannot be written, or a file of the checkpoint that cannot be read."""
    if is_full(error):
        what, fix = full_sentence(error)
        return ResourceError(what, where=target.parent, fix=fix)
    reason = error.strerror or error
    file = None if error.filename is None else Path(os.fsdecode(error.filename))
    if file is not None and not file.is_relative_to(partial):
        return CheckpointError(f"cannot be read ({reason})", where=file)
    if exists(target):  # another process made it in the meantime
        return _exists_already(target)
    return ResourceError(f"cannot be written ({reason})", where=target, fix="name another folder")


def _speech_bytes(checkpoint: Checkpoint) -> int:
    """Size of the speech checkpoint, which is copied as it is."""
    speech = find_speech(checkpoint.folder)
    return 0 if speech is None else sum(file.stat().st_size for file in speech.rglob("*") if file.is_file())


def _make_parent(out: Path) -> Path:
    """Make the folder around `out`; returns the path without symbolic links.

    Raises:
        ResourceError: it cannot be made.
    """
    try:
        target = out.resolve(strict=False)
        if target.is_symlink():
            raise ResourceError("cannot be made (it is a link to itself)", where=out, fix="name another folder")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a link to itself, before Python 3.13
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(f"cannot be made ({reason})", where=out, fix="name another folder") from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror or error
        raise ResourceError(f"cannot be made ({reason})", where=out.parent, fix="name another folder") from error
    return target


def _tensors(checkpoint: Checkpoint, quantize: Quantize) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor of the new checkpoint."""
    model = VitaModel.on_meta(checkpoint.config, checkpoint.config.decoder.vocab_size, quantize)
    quantized = {
        checkpoint_name(part, ours): t.dtype
        for part, module in model.parts()
        for ours, t in module.state_dict().items()
        if t.dtype in STORED
    }
    for name in checkpoint.store:
        tensor = checkpoint.store.get(name)
        if name in quantized:
            unquantized = tensor
            tensor, scale = quantize_weight(unquantized, quantized[name])
            checkpoint.store.release(name, unquantized)
            yield name.removesuffix("weight") + "scale", scale
        yield name, tensor
    missing = set(quantized) - set(checkpoint.store)  # a head tied to the embedding
    for name in missing:
        embedding = checkpoint.store.get(checkpoint_name("decoder", "embed.weight"))
        tensor, scale = quantize_weight(embedding, quantized[name])
        yield name.removesuffix("weight") + "scale", scale
        yield name, tensor


def _write_shards(checkpoint: Checkpoint, out: Path, quantize: Quantize, progress: Progress | None) -> None:
    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    number = size = 0
    total = len(checkpoint.store.entries)

    def close() -> None:
        nonlocal number, size
        number += 1
        name = f"model-{number:05}.safetensors"
        write_tensors(out / name, shard)
        weight_map.update(dict.fromkeys(shard, name))
        shard.clear()
        size = 0

    for done, (name, tensor) in enumerate(_tensors(checkpoint, quantize), start=1):
        if size and size + tensor.nbytes > SHARD_BYTES:
            close()
        shard[name] = tensor.contiguous()
        size += tensor.nbytes
        if progress is not None:
            progress("tensors", min(done, total), total)
    close()
    index = {"metadata": {}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def _copy_small_files(checkpoint: Checkpoint, out: Path, quantize: Quantize) -> None:
    places = [(checkpoint.folder, out)]
    places += [(folder, out / name) for name, folder in checkpoint.side_folders]
    if checkpoint.config.layout == "serving":
        places.append((checkpoint.folder / "feature_extractor", out / "feature_extractor"))
    for source, target in places:
        target.mkdir(exist_ok=True)
        for pattern in SMALL_FILES:
            for file in source.glob(pattern):
                if file.is_file() and file.name not in NOT_COPIED:
                    shutil.copyfile(file, target / file.name)
    speech = find_speech(checkpoint.folder)
    if speech is not None:  # not quantised: it is, if it is to be, when it is loaded
        _copy_folder(speech, out / speech.name)
    config = read_json(out / "config.json")
    config["vita_quantization"] = quantize
    (out / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy_folder(source: Path, target: Path) -> None:
    """Copy all files below a folder. Unlike with `shutil.copytree`, the first error ends it and is raised as it is."""

    def stop(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(source, onerror=stop, followlinks=True):
        place = target / Path(folder).relative_to(source)
        place.mkdir()
        for name in names:
            shutil.copyfile(Path(folder, name), place / name)
