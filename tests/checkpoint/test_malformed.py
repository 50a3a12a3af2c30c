"""Malformed files of weights: one sentence, and never an error of Python's own."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tests.checkpoints import AUDIO, copy_mini, edit_json, read_tensors, write_single

import vita
from vita.checkpoint.convert import convert
from vita.checkpoint.files import DEFAULT
from vita.checkpoint.load import check_tensors
from vita.checkpoint.names import checkpoint_name
from vita.checkpoint.open import open_checkpoint
from vita.checkpoint.safetensors import DTYPES, Entry, TensorStore, list_tensors, read_header
from vita.errors import CheckpointError, VitaError
from vita.model.vita import VitaModel

DEEP = "[" * 100_000


def write(file: Path, header: object, body: bytes = b"\0" * 16, length: int | None = None) -> Path:
    raw = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + body)
    return file


def tensor(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}


HEADERS: dict[str, tuple[object, str]] = {
    "offset infinity": (tensor(data_offsets=[0, math.inf]), "data_offsets of 'a'"),
    "offset NaN": (tensor(data_offsets=[0, math.nan]), "data_offsets of 'a'"),
    "offset 1e999": ('{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 1e999]}}', "data_offsets of 'a'"),
    "offset a float": (tensor(data_offsets=[0, 16.0]), "data_offsets of 'a'"),
    "offset a bool": (tensor(data_offsets=[False, 16]), "data_offsets of 'a'"),
    "offset negative": (tensor(data_offsets=[-16, 0]), "data_offsets of 'a'"),
    "offsets reversed": (tensor(data_offsets=[16, 0]), "data_offsets of 'a'|bytes too many"),
    "one offset": (tensor(data_offsets=[16]), "data_offsets of 'a'"),
    "three offsets": (tensor(data_offsets=[0, 16, 16]), "data_offsets of 'a'"),
    "offsets a text": (tensor(data_offsets="0,16"), "data_offsets of 'a'"),
    "offsets null": (tensor(data_offsets=None), "data_offsets of 'a'"),
    "offsets that leave a gap": (tensor(data_offsets=[4, 16]), "data_offsets of 'a'"),
    "offset over 64 bits": (tensor(data_offsets=[0, 2**64]), "data_offsets of 'a'"),
    "offset of thousands of digits": (
        '{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, ' + "9" * 5000 + "]}}", "has a damaged header",
    ),
    "dtype a list": (tensor(dtype=["F32"]), "dtype of 'a'"),
    "dtype null": (tensor(dtype=None), "dtype of 'a'"),
    "dtype a mapping": (tensor(dtype={"F32": 1}), "dtype of 'a'"),
    "dtype unknown": (tensor(dtype="F8_E4M3"), "holds tensors of the unknown type 'F8_E4M3'"),
    "shape a text": (tensor(shape="22"), "shape of 'a'"),
    "shape null": (tensor(shape=None), "shape of 'a'"),
    "shape negative": (tensor(shape=[-2, -2]), "shape of 'a'"),
    "shape of floats": (tensor(shape=[2.0, 2.0]), "shape of 'a'"),
    "shape infinite": (tensor(shape=[math.inf]), "shape of 'a'"),
    "shape nested": (tensor(shape=[[2], [2]]), "shape of 'a'"),
    "shape that needs more": (tensor(shape=[2, 3]), "data_offsets of 'a'"),
    "shape of nine dimensions": (tensor(shape=[2, 2] + [1] * 7), "shape of 'a'"),
    "shape of very many dimensions": (tensor(shape=[2**62] * 200_000), "shape of 'a'"),
    "shape of 2**62 columns": (tensor(shape=[2**62, 2**62]), "data_offsets of 'a'"),
    "overlap": (tensor() | {"b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, "data_offsets of 'b'"),
    "overlap in part": (
        tensor(shape=[2], data_offsets=[0, 8]) | {"b": {"dtype": "F32", "shape": [3], "data_offsets": [4, 16]}},
        "data_offsets of 'b'",
    ),
    "gap between two": (
        tensor(shape=[1], data_offsets=[0, 4]) | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}},
        "data_offsets of 'b'",
    ),
    "entry a list": ({"a": [1]}, "the entry of 'a'"),
    "entry null": ({"a": None}, "the entry of 'a'"),
    "header a list": ([1, 2], "has a damaged header"),
    "header a number": ("15", "has a damaged header"),
    "header null": ("null", "has a damaged header"),
    "metadata a list": (tensor() | {"__metadata__": [1]}, "has a damaged header"),
    "metadata of numbers": (tensor() | {"__metadata__": {"a": 1}}, "has a damaged header"),
    "nested 100,000 deep": (DEEP, "has a damaged header"),
    "mappings nested 100,000 deep": ('{"a":' * 100_000, "has a damaged header"),
    "not UTF-8": (b"\xff\xfe{}".decode("latin-1"), "has a damaged header"),
    "a name with a line break": (
        {"a\nb": {"dtype": "F32", "shape": [1], "data_offsets": [0, 15]}}, r"bytes too many|data_offsets of 'a\\nb'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_malformed_header_is_one_sentence(tmp_path: Path, name: str) -> None:
    header, said = HEADERS[name]
    file = write(tmp_path / "model.safetensors", header)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_header(file)
    sentence = str(caught.value)
    assert sentence.startswith(f"{file}: ") and sentence.endswith(".") and "\n" not in sentence


@pytest.mark.parametrize("length", [0, 1, 2**63, 2**64 - 1, 101 << 20, 40])
def test_a_header_of_an_impossible_length_is_refused(tmp_path: Path, length: int) -> None:
    file = write(tmp_path / "model.safetensors", tensor(), length=length)
    with pytest.raises(CheckpointError, match=r"is not a complete safetensors file|has a damaged header"):
        read_header(file)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        list_tensors(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_header(tmp_path / "model.safetensors")


SIZES = st.one_of(st.integers(0, 4), st.integers(-2, 2**65), st.floats(), st.booleans(), st.none())
ENTRY = st.fixed_dictionaries({
    "dtype": st.one_of(st.sampled_from(["F32", "U8", "I64", "F9"]), st.none(), st.lists(st.text(max_size=2))),
    "shape": st.one_of(st.lists(SIZES, max_size=3), st.text(max_size=3)),
    "data_offsets": st.one_of(st.lists(SIZES, max_size=3), st.tuples(st.integers(0, 32), st.integers(0, 32))),
})  # fmt: skip
ANYTHING = st.recursive(st.one_of(SIZES, st.text(max_size=4)), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


def accepted_by_the_library(file: Path) -> dict[str, tuple[int, ...]] | None:
    try:
        with safe_open(file, "pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError:
        return None


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.one_of(ENTRY, ANYTHING), max_size=3), st.integers(0, 40))
def test_any_header_is_read_as_the_formats_own_library_reads_it_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], size: int
) -> None:
    file = write(tmp_path_factory.mktemp("header") / "t.safetensors", header, b"\0" * size)
    try:
        entries = read_header(file)
    except CheckpointError as error:
        assert "\n" not in str(error)
        return
    assert {name: entry.shape for name, entry in entries.items()} == accepted_by_the_library(file)


LAYOUT = st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(sorted(DTYPES))), max_size=4)


@settings(max_examples=100, deadline=None)
@given(LAYOUT, st.data())
def test_one_changed_number_is_noticed_where_the_library_notices_it(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[list[int], str]], data: st.DataObject
) -> None:
    header: dict[str, Any] = {}
    at = 0
    for k, (shape, dtype) in enumerate(made):
        end = at + math.prod(shape) * DTYPES[dtype].itemsize
        header[f"t{k}"] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    if header and data.draw(st.booleans()):
        entry = header[data.draw(st.sampled_from(sorted(header)))]
        numbers = data.draw(st.sampled_from([entry["shape"], entry["data_offsets"]]))
        if numbers:
            numbers[data.draw(st.integers(0, len(numbers) - 1))] += data.draw(st.integers(-2, 2))
    file = write(tmp_path_factory.mktemp("layout") / "t.safetensors", header, b"\0" * at)
    try:
        entries = read_header(file)
    except CheckpointError:
        assert accepted_by_the_library(file) is None
    else:
        assert {name: entry.shape for name, entry in entries.items()} == accepted_by_the_library(file)


@pytest.fixture
def folder(mini: Path, tmp_path: Path) -> Path:
    return copy_mini(mini, tmp_path)


INDEX = "model.safetensors.index.json"
INDEXES: dict[str, tuple[Any, str]] = {
    "null": ({"weight_map": {"a": None}}, "its weight_map names None as a file"),
    "null among names": (
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": None}}, "its weight_map names None as a file",
    ),
    "a list": ({"weight_map": {"a": ["x"]}}, r"its weight_map names \['x'\] as a file"),
    "a number": ({"weight_map": {"a": 5, "b": "x"}}, "its weight_map names 5 as a file"),
    "an empty name": ({"weight_map": {"a": ""}}, "its weight_map names '' as a file"),
    "a folder": ({"weight_map": {"a": ".."}}, r"its weight_map names '\.\.' as a file|weight files are missing"),
    "a NUL": ({"weight_map": {"a": "x\0y"}}, "1 of 1 weight files are missing"),
    "a name too long": ({"weight_map": {"a": "x" * 5000}}, "1 of 1 weight files are missing"),
    "a map that is a list": ({"weight_map": ["a"]}, "has no weight_map"),
    "a map that is a text": ({"weight_map": "a"}, "has no weight_map"),
    "an empty map": ({"weight_map": {}}, "has no weight_map"),
    "not an object": ([], "is not a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("name", INDEXES)
def test_a_malformed_index_is_one_sentence(folder: Path, name: str) -> None:
    index, said = INDEXES[name]
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(folder, offline=True)
    sentence = str(caught.value)
    assert "\n" not in sentence and "\0" not in sentence and len(sentence) < 700


DEEP_FILES: dict[str, Callable[[Path], Path]] = {
    "config": lambda f: f / "config.json", "index": lambda f: f / INDEX, "yaml": lambda f: f / AUDIO / "train.yaml",
    "statistics": lambda f: f / AUDIO / "global_cmvn", "generation": lambda f: f / "generation_config.json",
}  # fmt: skip


@pytest.mark.parametrize("name", DEEP_FILES)
@pytest.mark.parametrize(
    "text",
    [DEEP, '{"a":' * 100_000, "9" * 100_000, "\ud800".encode("utf-8", "surrogatepass"), b"\xff\xfe\0", b"", b"\0"],
    ids=["lists", "mappings", "digits", "surrogate", "utf-16", "empty", "nul"],
)
def test_deep_or_broken_text_is_one_sentence(folder: Path, name: str, text: str | bytes) -> None:
    file = DEEP_FILES[name](folder)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=file.name) as caught:
        open_checkpoint(folder, offline=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["a: 2020-99-99", "a: !!int x", "a: !!python/object:os.system x", "? [1, 2]\n: 3", "a: &x [*x]", "5: 6", "a: =",
     "a: !!binary '***'", "a: !!timestamp x", "? {a: 1}\n: 2", "a: !!float x", "- 1", "text", "---\na: 1\n---\nb: 2"],
)  # fmt: skip
def test_odd_yaml_is_one_sentence(folder: Path, text: str) -> None:
    (folder / AUDIO / "train.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"train\.yaml") as caught:
        open_checkpoint(folder, offline=True)
    assert "\n" not in str(caught.value)


def test_aliases_that_multiply_are_no_work(folder: Path) -> None:
    """A billion references to one text, nine lists deep."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{k}: &a{k} [{','.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 10)]
    text = (folder / AUDIO / "train.yaml").read_text()
    (folder / AUDIO / "train.yaml").write_text("\n".join([*lines, text]))
    assert open_checkpoint(folder, offline=True).config.audio.dim == 32
    (folder / AUDIO / "train.yaml").write_text("\n".join([*lines, text.replace("input_dim: 80", "input_dim: *a9")]))
    with pytest.raises(CheckpointError, match="input_dim must be an integer") as caught:
        open_checkpoint(folder, offline=True)
    assert len(str(caught.value)) < 1000


def test_of_two_copies_of_a_tensor_the_one_that_the_index_names_counts(folder: Path) -> None:
    tensors = read_tensors(folder)
    write_single(folder, tensors)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "a.safetensors")
    save_file({"model.norm.weight": torch.full((48,), 7.0)}, folder / "b.safetensors")
    for file, first in (("a.safetensors", tensors["model.norm.weight"][0]), ("b.safetensors", 7.0)):
        weight_map = dict.fromkeys(tensors, "a.safetensors") | {"model.norm.weight": file}
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        assert open_checkpoint(folder, offline=True).store.get("model.norm.weight")[0] == first


def test_a_file_that_changes_after_its_header_was_read_is_one_sentence(folder: Path) -> None:
    store = open_checkpoint(folder, offline=True).store
    name = "model.norm.weight"
    file = store.entries[name].file
    file.write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=file.name):
        store.get(name)
    file.unlink()
    with pytest.raises(CheckpointError, match=file.name):
        store.get(name)


HEAD, HEAD_SCALE = "lm_head.weight", "lm_head.scale"


@pytest.mark.parametrize(
    ("name", "dtype", "said"),
    [
        (HEAD, torch.uint8, r"lm_head\.weight torch\.uint8 instead of torch\.int8"),
        (HEAD_SCALE, torch.float32, r"lm_head\.scale torch\.float32 instead of torch\.bfloat16"),
        (HEAD_SCALE, torch.float16, r"lm_head\.scale torch\.float16 instead of torch\.bfloat16"),
    ],
)
def test_quantised_tensors_are_of_exactly_their_type(
    mini: Path, tmp_path: Path, name: str, dtype: torch.dtype, said: str
) -> None:
    """The kernels read them as they are stored: others would be read out of bounds, or wrong."""
    convert(open_checkpoint(mini / "mini_ckpt"), tmp_path / "int8", "int8")
    tensors = read_tensors(tmp_path / "int8")
    tensors[name] = tensors[name].view(dtype) if dtype == torch.uint8 else tensors[name].to(dtype)
    write_single(tmp_path / "int8", tensors)
    with pytest.raises(CheckpointError, match=r"1 of another shape or type \(" + said) as caught:
        vita.load(tmp_path / "int8", device="cpu", offline=True)
    assert "\n" not in str(caught.value)


def test_packed_int4_is_not_read_from_int8() -> None:
    """By headers alone: the reference set's layers are too narrow for int4."""
    checkpoint = open_checkpoint(DEFAULT)
    model = VitaModel.on_meta(checkpoint.config, checkpoint.config.decoder.vocab_size, "int4")
    entries = {
        checkpoint_name(part, ours): Entry(Path("f"), tensor.dtype, tuple(tensor.shape))
        for part, module in model.parts()
        for ours, tensor in module.state_dict().items()
    }
    check_tensors(replace(checkpoint, store=TensorStore(entries)), model)
    name = "model.layers.0.mlp.up_proj.weight"
    assert entries[name].dtype == torch.uint8
    entries[name] = replace(entries[name], dtype=torch.int8)
    with pytest.raises(CheckpointError, match=rf"{name} torch\.int8 instead of torch\.uint8"):
        check_tensors(replace(checkpoint, store=TensorStore(entries)), model)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "x" * 5000, "a\0b", "a/" + "b" * 300])
def test_names_of_folders_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(VitaError, match=r"no such folder|is not in the local cache|no valid name") as caught:
        open_checkpoint(name, offline=True)
    assert "\n" not in str(caught.value)


def test_another_architecture_may_be_anything(folder: Path) -> None:
    for value in (5, {}, [], [5], "a", None, [None]):
        edit_json(folder / "config.json", lambda c, value=value: c.update(model_type=None, architectures=value))
        with pytest.raises(CheckpointError, match="is the configuration of another model"):
            open_checkpoint(folder, offline=True)
    edit_json(folder / "config.json", lambda c: c.update(model_type=["vita-Qwen2"]))
    with pytest.raises(CheckpointError, match=r"another model \(\['vita-Qwen2'\]\)"):
        open_checkpoint(folder, offline=True)
