"""Hub ids: found in a cache laid out as the hub's, and every failure is a sentence."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from tests.checkpoints import VISION, copy_mini

import vita
from vita.checkpoint import hub
from vita.cli.info import collect, run_info
from vita.errors import CheckpointError, DownloadError, ResourceError, VitaError
from vita.options import EngineOptions
from vita.types import SamplingParams


def lay_out(cache: Path, repo: str, content: Path) -> None:
    """A repository as `huggingface_hub` keeps it."""
    home = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(content, home / "snapshots" / "abc123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc123")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def test_a_cached_model_answers_offline(mini: Path, tmp_path: Path, cache: Path, mini_model: vita.Vita) -> None:
    place = copy_mini(mini, tmp_path / "copy")
    shutil.move(place.parent / VISION, place / VISION)
    lay_out(cache, "somebody/mini-vita", place)
    model = vita.load("somebody/mini-vita", offline=True, device="cpu", dtype="float32")
    params = SamplingParams(max_tokens=5)
    assert model.ask("Hello", params=params).token_ids == mini_model.ask("Hello", params=params).token_ids


def test_info_needs_no_weights(mini: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = copy_mini(mini, tmp_path / "copy")
    shutil.move(place.parent / VISION, place / VISION)
    options = EngineOptions(offline=True)
    whole = collect(str(place), options, 100)
    for file in place.glob("*-00002-of-*.safetensors"):  # one shard of two is there
        file.unlink()
    lay_out(cache, "somebody/mini-vita", place)
    assert run_info("somebody/mini-vita", options, positions=100, as_json=False) == 0
    said = capsys.readouterr().out
    assert "not downloaded, or not all of it; vita pull somebody/mini-vita" in said and "missing     nothing" in said
    found = collect("somebody/mini-vita", options, 100)
    differ = {key for key in found if found[key] != whole[key]}
    # Memory too: two tensors of this checkpoint are not of the type that its configuration names.
    assert differ <= {"model", "stored_bytes", "stored_dtypes", "available", "kv_budget", "memory", "bytes_needed"}
    with pytest.raises(CheckpointError, match="00002"):
        collect(str(place), options, 100)


def test_the_vision_folder_may_come_from_the_hub(mini: Path, tmp_path: Path, cache: Path) -> None:
    place = copy_mini(mini, tmp_path / "copy")
    lay_out(cache, f"OpenGVLab/{VISION}", place.parent / VISION)
    shutil.rmtree(place.parent / VISION)
    assert vita.load(place, offline=True, device="cpu").engine.model.config.vision.image_size == 112
    shutil.rmtree(cache)
    with pytest.raises(CheckpointError, match=rf"'{VISION}' .* nor on the hub as OpenGVLab/{VISION}; put its"):
        vita.load(place, offline=True, device="cpu")


@pytest.mark.parametrize("name", ["a/b", "VITA-MLLM/VITA-1.5"])
def test_hub_ids_are_told_from_paths(name: str) -> None:
    assert hub.is_hub_id(name)


@pytest.mark.parametrize("name", ["a", "./a/b", "/a/b", "a/b/c", "../x", "a\\b", "a/", "https://a/b"])
def test_paths_are_no_hub_ids(name: str) -> None:
    assert not hub.is_hub_id(name)


def answered(kind: type[Exception], code: int) -> Exception:
    """An error as the hub's client raises it, whatever its version wants to be built from."""
    error = kind.__new__(kind)
    error.response = SimpleNamespace(status_code=code)  # type: ignore[attr-defined]
    return error


FAILURES: dict[str, tuple[Callable[[], Exception], type[VitaError], str]] = {
    "no network": (lambda: errors.LocalEntryNotFoundError("x"), DownloadError, "the hub cannot be reached; connect to"),
    "not there": (
        lambda: answered(errors.RepositoryNotFoundError, 404), DownloadError,
        "is neither a folder here nor a repository on the hub; check the spelling",
    ),
    "login": (lambda: answered(errors.GatedRepoError, 403), DownloadError, "asks for a login; run 'hf auth"),
    "broken hub": (lambda: answered(errors.HfHubHTTPError, 503), DownloadError, r"with an error \(503\)"),
    "disk full": (lambda: OSError(errno.ENOSPC, "no space"), ResourceError, "the disk is full; free some space"),
    "quota": (lambda: OSError(errno.EDQUOT, "quota"), ResourceError, "the disk is full; free some space"),
    "cache": (
        lambda: PermissionError(errno.EACCES, "Permission denied", "/cache"), ResourceError,
        r"/cache: the hub's cache cannot be used \(Permission denied\); set HF_HOME to a folder",
    ),
    "cable pulled": (lambda: ConnectionResetError("x"), DownloadError, r"could not be downloaded \(Connection"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_failures_of_a_download(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, kind, said = FAILURES[name]

    def fail(*_: Any, **__: Any) -> str:
        raise make()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(kind, match=said) as caught:
        vita.load("owner/name")
    assert str(caught.value).startswith(("owner/name: ", "/cache: "))
