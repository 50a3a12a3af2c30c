"""Files we write: read back by the format's own library, with tensors on cache lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from vita.checkpoint.convert import convert
from vita.checkpoint.open import open_checkpoint
from vita.checkpoint.safetensors import DTYPES, LINE, write_tensors

SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)
TENSORS = st.lists(st.tuples(SHAPES, st.sampled_from(list(DTYPES.values()))), max_size=6)


@given(TENSORS)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[tuple[int, ...], torch.dtype]]
) -> None:
    file = tmp_path_factory.mktemp("write") / "t.safetensors"
    tensors = {f"ü.{k}": (torch.randn(shape) * 50).to(dtype) for k, (shape, dtype) in enumerate(made)}
    write_tensors(file, tensors)
    with safe_open(file, "pt") as back:
        assert set(back.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert back.get_tensor(name).dtype == tensor.dtype and torch.equal(back.get_tensor(name), tensor)


def test_a_transposed_tensor_is_written_as_it_looks(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).view(2, 3).t()
    write_tensors(tmp_path / "t.safetensors", {"t": tensor})
    with safe_open(tmp_path / "t.safetensors", "pt") as back:
        assert torch.equal(back.get_tensor("t"), tensor)


def test_quantised_weights_of_a_converted_checkpoint_begin_on_cache_lines(tmp_path: Path) -> None:
    convert(open_checkpoint(None, offline=True), tmp_path / "four", "int4")
    store = open_checkpoint(str(tmp_path / "four"), offline=True).store
    quantized = [store.get(name) for name in store if not store.get(name).is_floating_point()]
    aligned = [tensor for tensor in quantized if tensor.nbytes % LINE == 0]
    assert len(aligned) > 20 and all(tensor.data_ptr() % LINE == 0 for tensor in aligned)
