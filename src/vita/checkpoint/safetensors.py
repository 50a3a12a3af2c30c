"""Safetensors files: list the tensors of a folder, memory-map them on demand, write new files.

Every header and every file length is checked before any weights are read.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from vita.checkpoint.files import is_file, is_utf8, read_json
from vita.checkpoint.mmap import drop_pages
from vita.checkpoint.settings import show, show_name
from vita.errors import CheckpointError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
MAX_HEADER = 100 << 20  # the format's own limit
MAX_DIMENSIONS = 8  # multiplying a hostile header's many huge sizes would take hours


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its type and shape."""

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
        entries: name to file, type and shape.
        edit: applied to each tensor when it is read (a LoRA merge); None returns views of the mapped file.
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
        """The tensor on the CPU: a view of the memory-mapped file unless an edit replaced it.

        Raises:
            CheckpointError: the file has changed since its header was read, or cannot be mapped.
        """
        from safetensors import SafetensorError

        entry = self.entries[name]
        try:
            if entry.file not in self._open:
                self._open[entry.file] = _map_file(entry.file)
            tensor: Tensor = self._open[entry.file].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"is damaged ({error})", where=entry.file, fix="download it again") from error
        except OSError as error:
            raise CheckpointError(f"cannot be read ({error.strerror or error})", where=entry.file) from error
        return tensor if self.edit is None else self.edit(name, tensor)

    def release(self, name: str, tensor: Tensor) -> None:
        """Drop the mapped pages of a tensor from `get` that is not needed again soon."""
        drop_pages(tensor, self.entries[name].file)


def _map_file(file: Path) -> Any:
    """The mapped file as the library's reader, which opens a path only if it is UTF-8.

    Raises:
        OSError, SafetensorError: it cannot be opened, or is damaged.
    """
    from safetensors import safe_open

    if is_utf8(file):
        return safe_open(file, framework="pt", device="cpu").__enter__()
    with file.open("rb") as stream:  # the mapping outlives the descriptor
        return safe_open(f"/dev/fd/{stream.fileno()}", framework="pt", device="cpu").__enter__()


def list_tensors(folder: Path) -> dict[str, Entry]:
    """Every tensor of the folder's safetensors files, from their headers alone.

    Raises:
        CheckpointError: no weights, a shard missing, truncated or damaged, or an index that disagrees.
    """
    index = folder / "model.safetensors.index.json"
    if is_file(index):
        return _merge_shards(folder, index)
    single = folder / "model.safetensors"
    if not is_file(single):
        raise CheckpointError(
            "holds no model.safetensors and no model.safetensors.index.json", where=folder,
            fix="pass the folder that holds the weights",
        )  # fmt: skip
    return read_header(single)


def read_header(file: Path) -> dict[str, Entry]:
    """Names, types and shapes of one safetensors file.

    Raises:
        CheckpointError: truncated, damaged or not a safetensors file; tensors must lie one after the other without
            gap or overlap, as the format demands.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER, max(0, size - 8)):
                raise CheckpointError("is not a complete safetensors file", where=file, fix="download it again")
            raw = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=file) from error
    try:
        listed = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("has a damaged header", where=file, fix="download it again") from error
    if not isinstance(listed, dict) or not _is_metadata(listed.pop("__metadata__", None)):
        raise CheckpointError("has a damaged header", where=file, fix="download it again")
    spans = {name: _span(file, name, value) for name, value in listed.items()}
    _check_layout(file, spans, size - 8 - length)
    return {name: entry for name, (entry, _, _) in spans.items()}


Span = tuple[Entry, int, int]  # with first and last byte, counted from the end of the header


def _is_metadata(value: object) -> bool:
    return value is None or (
        isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
    )


def _span(file: Path, name: str, value: object) -> Span:
    """One line of a header, checked."""

    def damaged(key: str) -> CheckpointError:
        return CheckpointError(f"has a damaged header: {key} of {show(name)}", where=file, fix="download it again")

    if not isinstance(value, dict):
        raise damaged("the entry")
    dtype, shape, offsets = (value.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str):
        raise damaged("dtype")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise damaged("shape")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise damaged("data_offsets")
    if dtype not in DTYPES:
        raise CheckpointError(f"holds tensors of the unknown type {show(dtype)}", where=file)
    return Entry(file, DTYPES[dtype], tuple(shape)), offsets[0], offsets[1]


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_layout(file: Path, spans: Mapping[str, Span], size: int) -> None:
    """Tensors fill the `size` bytes behind the header without gap or overlap."""
    needed = max((end for _, _, end in spans.values()), default=0)
    if size < needed:
        raise CheckpointError(
            f"is truncated: {size} of {needed} bytes of tensors are there", where=file, fix="download it again"
        )
    if size > needed:
        raise CheckpointError(f"has {size - needed} bytes too many", where=file, fix="download it again")
    at = 0
    for name, (entry, start, end) in sorted(spans.items(), key=lambda item: item[1][1:]):
        if start != at or end - start != entry.bytes:
            raise CheckpointError(
                f"has a damaged header: data_offsets of {show(name)}", where=file, fix="download it again"
            )
        at = end


def _merge_shards(folder: Path, index: Path) -> dict[str, Entry]:
    """The tensors of all files that an index names."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("has no weight_map", where=index, fix="download it again")
    wrong = [value for value in weight_map.values() if not isinstance(value, str) or not Path(value).name]
    if wrong:
        raise CheckpointError(f"its weight_map names {show(wrong[0])} as a file", where=index, fix="download it again")
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not is_file(folder / Path(name).name)]
    if missing:
        listed = ", ".join(map(show_name, missing))
        raise CheckpointError(
            f"{len(missing)} of {len(names)} weight files are missing: {listed}",
            where=folder, fix="download the folder again",
        )  # fmt: skip
    shards = {name: read_header(folder / Path(name).name) for name in names}
    entries = {tensor: entry for shard in shards.values() for tensor, entry in shard.items()}
    for tensor, name in weight_map.items():
        if tensor not in entries:
            raise CheckpointError(f"the index lists {show(tensor)}, no shard holds it", where=index)
        entries[tensor] = shards[name].get(tensor, entries[tensor])  # of two copies, the one that the index means
    return entries


LINE = 64  # bytes of a cache line
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def header(entries: Iterable[tuple[str, torch.dtype, Sequence[int]]]) -> bytes:
    """Header of a file that holds these tensors in this order, padded so that the first begins on a cache line."""
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
    """Write one safetensors file.

    Tensors whose size is a multiple of a cache line come first, so that each of them begins on a cache line.

    Args:
        file: created or overwritten.
        tensors: on the CPU, of any type of the format.

    Raises:
        OSError: the disk is full or the file cannot be written.
    """
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % LINE != 0, -tensors[name].element_size()))
    with file.open("wb") as out:
        out.write(header((name, tensors[name].dtype, tensors[name].shape) for name in order))
        for name in order:
            out.write(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
