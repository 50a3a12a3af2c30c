"""The tensors of a checkpoint folder, listed from the file headers and mapped on demand.

Owns which file holds which tensor, and that every header and file length is checked before a byte of weights is
read. Does not know what a tensor is for.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vita.checkpoint.mmap import drop_pages
from vita.errors import CheckpointError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
MAX_HEADER = 100 << 20  # the format's own limit


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize


Edit = Callable[[str, Tensor], Tensor]


class TensorStore:
    """Lazily mapped tensors by their checkpoint names.

    Args:
        entries: name to place.
        edit: applied to each tensor as it is read (a LoRA merge); None leaves the mapping untouched.
    """

    def __init__(self, entries: dict[str, Entry], edit: Edit | None = None) -> None:
        self.entries = entries
        self.edit = edit
        self._open: dict[Path, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def get(self, name: str) -> Tensor:
        """The tensor on the CPU, a view of the memory-mapped file unless an edit replaced it."""
        from safetensors import SafetensorError, safe_open

        entry = self.entries[name]
        try:
            if entry.file not in self._open:
                self._open[entry.file] = safe_open(entry.file, framework="pt", device="cpu").__enter__()
            tensor: Tensor = self._open[entry.file].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"is damaged ({error})", where=entry.file, fix="download it again") from error
        return tensor if self.edit is None else self.edit(name, tensor)

    def release(self, name: str, tensor: Tensor) -> None:
        """Give back the memory of a tensor of `get` that is not wanted again soon."""
        drop_pages(tensor, self.entries[name].file)


def list_tensors(folder: Path) -> dict[str, Entry]:
    """Every tensor of the folder's safetensors files, from their headers alone.

    Raises:
        CheckpointError: no weights, a shard missing, truncated or damaged, or an index that disagrees.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError("has no weight_map", where=index, fix="download it again")
        names = sorted(set(weight_map.values()))
        missing = [n for n in names if not isinstance(n, str) or not (folder / Path(n).name).is_file()]
        if missing:
            raise CheckpointError(
                f"{len(missing)} of {len(names)} weight files are missing: {', '.join(map(str, missing))}",
                where=folder, fix="download the folder again",
            )  # fmt: skip
        entries = _merge([folder / Path(n).name for n in names])
        absent = [n for n in weight_map if n not in entries]
        if absent:
            raise CheckpointError(f"the index lists {absent[0]!r}, no shard holds it", where=index)
        return entries
    single = folder / "model.safetensors"
    if not single.is_file():
        raise CheckpointError(
            "holds no model.safetensors and no model.safetensors.index.json", where=folder,
            fix="pass the folder that holds the weights",
        )  # fmt: skip
    return _merge([single])


def read_header(file: Path) -> dict[str, Entry]:
    """Names, dtypes and shapes of one safetensors file, with the file's length checked against them.

    Raises:
        CheckpointError: truncated, damaged or not a safetensors file.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER, max(0, size - 8)):
                raise CheckpointError("is not a whole safetensors file", where=file, fix="download it again")
            raw = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=file) from error
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        spans = {n: (v["dtype"], tuple(map(int, v["shape"])), int(v["data_offsets"][1])) for n, v in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise CheckpointError("has a damaged header", where=file, fix="download it again") from error
    needed = 8 + length + max((end for _, _, end in spans.values()), default=0)
    if size < needed:
        raise CheckpointError(f"is truncated: {size} of {needed} bytes are there", where=file, fix="download it again")
    if size > needed:
        raise CheckpointError(f"has {size - needed} bytes too many", where=file, fix="download it again")
    unknown = sorted({d for d, _, _ in spans.values() if d not in DTYPES})
    if unknown:
        raise CheckpointError(f"holds tensors of the unknown type {unknown[0]}", where=file)
    return {n: Entry(file, DTYPES[d], s) for n, (d, s, _) in spans.items()}


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: missing, unreadable, or not an object.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError("is missing", where=file, fix="pass the folder of a VITA-1.5 checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=file) from error
    except ValueError as error:
        raise CheckpointError("is not valid JSON", where=file, fix="download it again") from error
    if not isinstance(data, dict):
        raise CheckpointError("is not a JSON object", where=file)
    return data


def _merge(files: list[Path]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for file in files:
        entries.update(read_header(file))
    return entries


LINE = 64
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def header(entries: Iterable[tuple[str, torch.dtype, Sequence[int]]]) -> bytes:
    """The beginning of a file that holds these tensors in this order, padded so that they begin on a cache line."""
    listed: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape in entries:
        end = at + dtype.itemsize * math.prod(shape)
        listed[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(listed).encode()
    raw += b" " * (-(8 + len(raw)) % LINE)
    return struct.pack("<Q", len(raw)) + raw


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """One safetensors file; every tensor whose size and those before it are whole cache lines begins on one.

    Args:
        file: written anew.
        tensors: on the CPU, of any dtype of the format.

    Raises:
        OSError: the disk is full or the file cannot be written.
    """
    # Whole lines first: what follows a tensor of an odd size would begin anywhere.
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % LINE != 0, -tensors[name].element_size()))
    with file.open("wb") as out:
        out.write(header((name, tensors[name].dtype, tensors[name].shape) for name in order))
        for name in order:
            out.write(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
