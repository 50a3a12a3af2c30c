"""Tensors of a TorchScript archive, read without running any of it."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vita.errors import CheckpointError

_DAMAGED = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError)


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """The float32 tensors of an archive that `torch.jit.save` wrote, by their names in the module.

    Only the classes that describe tensors are known to the reader; every other class is an empty holder.

    Raises:
        CheckpointError: not such an archive, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (index,) = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
            folder = index.removesuffix("data.pkl")
            with archive.open(index) as file:
                module = _Reader(file, lambda key: archive.read(f"{folder}data/{key}")).load()
        return dict(_tensors(module, ""))
    except (*_DAMAGED, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot be read as a TorchScript archive ({error})", where=path) from error


@dataclass
class _Module:
    """Any object of the archive: its attributes."""

    attributes: dict[str, object] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, object]) -> None:
        self.attributes = state


class _Reader(pickle.Unpickler):
    def __init__(self, file: object, storage: Callable[[str], bytes]) -> None:
        super().__init__(file)  # type: ignore[arg-type]
        self._storage = storage

    def find_class(self, module: str, name: str) -> object:
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): dict,
            ("torch", "FloatStorage"): np.float32,
        }
        if module.startswith("__torch__"):
            return _Module
        if module == "torch.jit._pickle":  # typed lists and such
            return lambda *values: values
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: tuple[str, type[np.float32], str, str, int]) -> NDArray[np.float32]:
        _, dtype, key, _, _ = pid
        return np.frombuffer(self._storage(key), dtype)


def _tensor(storage: NDArray[np.float32], offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> NDArray[np.float32]:  # fmt: skip
    """The elements of a storage that a tensor consists of; the index is checked."""
    index = np.array(offset)
    for size, step in zip(shape, stride, strict=True):
        index = np.add.outer(index, np.arange(size) * step)
    return np.asarray(storage[index])


def _tensors(module: object, prefix: str) -> list[tuple[str, NDArray[np.float32]]]:
    """Of a module and those within it."""
    if isinstance(module, np.ndarray):
        return [(prefix.removesuffix("."), module)]
    if not isinstance(module, _Module):
        return []
    return [pair for name, value in module.attributes.items() for pair in _tensors(value, f"{prefix}{name}.")]
