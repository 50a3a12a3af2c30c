"""What a tokenizer.json brings along besides its vocabulary (truncation, padding, dropout) changes no text."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.checkpoints import copy_mini
from tokenizers import Tokenizer as Backend

import vita
from vita.errors import CheckpointError
from vita.prompt.tokenizer import Tokenizer

TEXT = "What does the internationalisation logo say, and how many circles are there? " * 4
MARKED = f"<|im_start|>user\n{TEXT}<|im_end|>\n"


def truncated(direction: str, strategy: str, stride: int = 0) -> dict[str, Any]:
    return {
        "truncation": {"direction": direction, "max_length": 5, "strategy": strategy, "stride": stride},
    }


def padded(strategy: object, direction: str = "Right", multiple: int | None = None) -> dict[str, Any]:
    return {
        "padding": {
            "strategy": strategy, "direction": direction, "pad_to_multiple_of": multiple, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "!",
        }
    }  # fmt: skip


STATES: dict[str, dict[str, Any]] = {
    **{
        f"truncation {side} {strategy}": truncated(side, strategy)
        for side in ("Left", "Right")
        for strategy in ("LongestFirst", "OnlyFirst")
    },
    "truncation with a stride": truncated("Right", "LongestFirst", 2),
    "padding fixed": padded({"Fixed": 512}),
    "padding fixed left": padded({"Fixed": 512}, "Left"),
    "padding batch": padded("BatchLongest", multiple=512),
    "dropout": {"dropout": 0.9},
    "dropout of everything": {"dropout": 1.0},
    "all of it": truncated("Right", "LongestFirst") | padded({"Fixed": 512}) | {"dropout": 0.5},
}


def save_state(file: Path, state: dict[str, Any]) -> None:
    whole = json.loads(file.read_text(encoding="utf-8"))
    whole["model"] |= {name: value for name, value in state.items() if name == "dropout"}
    whole |= {name: value for name, value in state.items() if name != "dropout"}
    file.write_text(json.dumps(whole), encoding="utf-8")


@pytest.fixture(scope="module")
def clean(mini: Path) -> Tokenizer:
    return Tokenizer.load(mini / "mini_ckpt")


@pytest.fixture(params=STATES)
def stateful(request: pytest.FixtureRequest, mini: Path, tmp_path: Path) -> Tokenizer:
    """The mini checkpoint's tokenizer with this state saved in its file."""
    shutil.copy(mini / "mini_ckpt" / "tokenizer.json", tmp_path)
    save_state(tmp_path / "tokenizer.json", STATES[request.param])
    shutil.copy(mini / "mini_ckpt" / "tokenizer_config.json", tmp_path)
    return Tokenizer.load(tmp_path)


def test_a_saved_state_changes_no_text(stateful: Tokenizer, clean: Tokenizer) -> None:
    for text in (TEXT, "hi", "", MARKED):
        assert stateful.encode(text) == clean.encode(text)
        assert stateful.encode_with_specials(text) == clean.encode_with_specials(text)
    assert stateful.decode(stateful.encode(TEXT)) == TEXT


def write_pair(source: Path, folder: Path, line_end: str = "\n") -> None:
    """The older file pair, made from `tokenizer.json`."""
    whole = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in whole["merges"]]
    (folder / "vocab.json").write_text(json.dumps(whole["vocab"]), encoding="utf-8")
    lines = "".join(line + line_end for line in ("#version: 0.2", *merges))
    (folder / "merges.txt").write_bytes(lines.encode())
    shutil.copy(source / "tokenizer_config.json", folder)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", [b"plain", b"caf\xe9"])
def test_the_older_file_pair_loads_without_state_too(
    mini: Path, tmp_path: Path, clean: Tokenizer, name: bytes, line_end: str
) -> None:
    """Also in a folder whose name is not UTF-8."""
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    write_pair(mini / "mini_ckpt", folder, line_end)
    loaded = Tokenizer.load(folder)
    for text in (TEXT, MARKED):
        assert loaded.encode(text) == clean.encode(text)
        assert loaded.encode_with_specials(text) == clean.encode_with_specials(text)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("merges.txt", b"#version: 0.2\na b c\n", "its tokenizer files are damaged"),
        ("merges.txt", b"a b\n\nc d\n", "its tokenizer files are damaged"),
        ("merges.txt", b"\xff \xff\n", "its tokenizer files are damaged"),
        ("vocab.json", b"[]", "its tokenizer files are damaged"),
        ("tokenizer_config.json", None, "tokenizer_config.json: cannot be read"),
    ],
)
def test_a_damaged_file_pair_is_one_sentence(
    mini: Path, tmp_path: Path, file: str, content: bytes | None, said: str
) -> None:
    write_pair(mini / "mini_ckpt", tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        Tokenizer.load(tmp_path)


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "merges of nothing": lambda d: d["model"].update(merges=[["a", "there is no such token"]]),
    "a prefix that no token has": lambda d: d["model"].update(continuing_subword_prefix="##"),  # the library panics
    "a table that is none": lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "an expression that is none": lambda d: d.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    ),
    "an id that is negative": lambda d: d["model"]["vocab"].update(a=-1),
    "a version of the future": lambda d: d.update(version="9"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_tokenizer_is_one_sentence(mini: Path, tmp_path: Path, name: str) -> None:
    whole = json.loads((mini / "mini_ckpt" / "tokenizer.json").read_text(encoding="utf-8"))
    DAMAGES[name](whole)
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(CheckpointError, match="its tokenizer files are damaged; download it again"):
        Tokenizer.load(tmp_path)


def any_backend(mini: Path, change: Callable[[Backend], None]) -> Backend:
    backend = Backend.from_file(str(mini / "mini_ckpt" / "tokenizer.json"))
    change(backend)
    return backend


def drop_merges(backend: Backend) -> None:
    backend.model.dropout = 0.9


def add_everything(backend: Backend) -> None:
    backend.enable_truncation(3)
    backend.enable_padding(length=64)
    drop_merges(backend)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.enable_truncation(5),
        lambda b: b.enable_truncation(5, direction="left"),
        lambda b: b.enable_padding(length=512),
        drop_merges,
    ],
)
def test_so_does_a_tokenizer_made_in_memory(mini: Path, clean: Tokenizer, change: Callable[[Backend], None]) -> None:
    made = Tokenizer(any_backend(mini, change), mini)
    assert made.encode(TEXT) == clean.encode(TEXT)
    assert made.encode_with_specials(MARKED) == clean.encode_with_specials(MARKED)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_is_whole(mini: Path, clean: Tokenizer, text: str) -> None:
    made = Tokenizer(any_backend(mini, add_everything), mini)
    assert made.encode(text) == clean.encode(text)


def test_an_answer_is_the_clean_checkpoints(mini: Path, tmp_path: Path) -> None:
    folder = copy_mini(mini, tmp_path)
    save_state(folder / "tokenizer.json", STATES["all of it"])
    clean = vita.load(mini / "mini_ckpt", dtype="float32", device="cpu")
    expected = clean.ask(TEXT, params=vita.SamplingParams(max_tokens=8))
    answer = vita.load(folder, dtype="float32", device="cpu").ask(TEXT, params=vita.SamplingParams(max_tokens=8))
    assert answer.text == expected.text and answer.usage == expected.usage
