"""`vita convert` beside other processes, on full disks, and when it is ended."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoints import copy_mini
from tests.cli.commands import MINI, assert_sentence, run

import vita
from vita.checkpoint import convert as convert_module
from vita.checkpoint.convert import convert
from vita.checkpoint.files import SPEECH_FOLDER
from vita.checkpoint.open import open_checkpoint
from vita.errors import CheckpointError, RequestError, ResourceError


def test_each_conversion_has_its_folder(mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one to the same place does not touch the first; the one that ends last is told."""
    checkpoint, write = open_checkpoint(mini / "mini_ckpt"), convert_module._write_shards

    def write_after_another(*arguments: Any) -> None:
        monkeypatch.setattr(convert_module, "_write_shards", write)
        write(*arguments)
        convert(checkpoint, tmp_path / "out", "int8")

    monkeypatch.setattr(convert_module, "_write_shards", write_after_another)
    with pytest.raises(RequestError, match="out: exists already; name a folder that does not exist"):
        convert(checkpoint, tmp_path / "out", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert vita.load(tmp_path / "out", device="cpu").engine.model.quantize == "int8"


def test_only_its_own_leftovers_are_removed(mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = tmp_path / "out.partial"
    users.mkdir()
    leftover = tmp_path / f".vita-convert-{0:016x}.partial"  # of a process that was killed
    leftover.mkdir()
    (leftover / "model-00001.safetensors").write_bytes(b"half")
    usage = shutil._ntuple_diskusage
    with monkeypatch.context() as patch:  # its space counts as free
        patch.setattr(shutil, "disk_usage", lambda _: usage(100, 90, 10) if leftover.exists() else usage(1, 0, 1 << 40))
        convert(open_checkpoint(mini / "mini_ckpt"), tmp_path / "out", "int8")
    assert users.is_dir() and not leftover.exists()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space is left; free some and run the command again"),
        (errno.EDQUOT, "no space is left in the disk quota; free some and run the command again"),
        (errno.EFBIG, r"the file would be larger than is allowed here; raise the limit \(ulimit -f\)"),
    ],
)
@pytest.mark.parametrize("place", ["speech", "shard"])
def test_a_full_disk_is_one_sentence(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, place: str
) -> None:
    folder = copy_mini(mini, tmp_path / "model")
    (folder / SPEECH_FOLDER / "decoder").mkdir(parents=True)
    (folder / SPEECH_FOLDER / "decoder" / "weights.pt").write_bytes(b"weights")
    copy = shutil.copyfile

    def fail(*arguments: Any, **_: Any) -> None:
        if place == "shard" or Path(arguments[0]).name == "weights.pt":
            raise OSError(number, os.strerror(number))
        copy(*arguments)

    monkeypatch.setattr(*((shutil, "copyfile") if place == "speech" else (convert_module, "write_tensors")), fail)
    with pytest.raises(ResourceError, match=said):
        convert(open_checkpoint(folder), tmp_path / "out", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_speech_checkpoint_is_copied_with_its_folders(mini: Path, tmp_path: Path) -> None:
    folder = copy_mini(mini, tmp_path / "model")
    (folder / SPEECH_FOLDER / "decoder").mkdir(parents=True)
    (folder / SPEECH_FOLDER / "decoder" / "weights.pt").write_bytes(b"weights")
    convert(open_checkpoint(folder), tmp_path / "out", "int8")
    assert (tmp_path / "out" / SPEECH_FOLDER / "decoder" / "weights.pt").read_bytes() == b"weights"


def test_a_file_that_cannot_be_read_is_named(mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_mini(mini, tmp_path)

    def fail(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(source))

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(CheckpointError, match=rf"{folder}/.*: cannot be read \(Permission denied\)"):
        convert(open_checkpoint(folder), tmp_path / "out", "int8")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_ends_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    number = signal.Signals[name]

    def end(*_: object) -> None:
        assert signal.getsignal(number) != signal.SIG_DFL, "it would kill this test"
        os.kill(os.getpid(), number)

    monkeypatch.setattr(convert_module, "write_tensors", end)
    assert run("convert", MINI, str(tmp_path / "out")).returncode == 128 + number
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a" * 300, f"folder/{'a' * 300}/out"])
def test_a_name_that_is_too_long_is_one_sentence(tmp_path: Path, name: str) -> None:
    assert_sentence(run("convert", MINI, str(tmp_path / name)), "cannot be made (File name too long)")
