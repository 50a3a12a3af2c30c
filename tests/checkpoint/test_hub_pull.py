"""The plan of a download, with a client that needs no network: sizes, what is here, and the free space."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from tests.checkpoint.hub_server import Hub, serve
from tests.checkpoints import VISION, copy_mini

from vita.checkpoint import hub_pull
from vita.checkpoint.hub_cache import cached_models, remove
from vita.checkpoint.hub_pull import PullFile, PullPlan, plan_pull, pull
from vita.errors import CheckpointError, ResourceError

SHARD = "f" * 64


class Client:
    """Answers as `HfApi` does."""

    endpoint = "http://127.0.0.1:9"

    def model_info(self, repo_id: str, *, files_metadata: bool = False) -> Any:
        assert files_metadata
        lfs = SimpleNamespace(sha256=SHARD, size=5_000_000_000)
        return SimpleNamespace(
            sha="abc",
            siblings=[
                SimpleNamespace(rfilename="model.safetensors", size=5_000_000_000, blob_id="b", lfs=lfs),
                SimpleNamespace(rfilename="config.json", size=2000, blob_id="c", lfs=None),
                SimpleNamespace(rfilename="vita_tts_ckpt/codec/final.pt", size=3000, blob_id="e", lfs=None),
                SimpleNamespace(rfilename="other/final.pt", size=4000, blob_id="f", lfs=None),
                SimpleNamespace(rfilename="demo.mp4", size=9_000_000, blob_id="d", lfs=None),
            ],
        )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "there yet"))
    return tmp_path / "not" / "there yet"


def test_only_needed_files_count_the_small_ones_first(cache: Path) -> None:
    plan = plan_pull("owner/name", Client())
    assert [f.name for f in plan.files] == ["config.json", "vita_tts_ckpt/codec/final.pt", "model.safetensors"]
    assert plan.total_bytes == plan.missing_bytes == 5_000_005_000 and not cache.exists()


def test_a_cache_that_the_system_cannot_hold_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / ("a" * 300)))
    plan = plan_pull("owner/name", Client())
    assert plan.missing_bytes == plan.total_bytes and plan.free_bytes > 0


def test_what_is_here_does_not_count(cache: Path) -> None:
    blobs = cache / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{SHARD}.partial").write_bytes(b"x" * 1000)
    assert plan_pull("owner/name", Client()).missing_bytes == 5_000_004_000
    (blobs / "c").write_bytes(b"y" * 2000)
    assert plan_pull("owner/name", Client()).missing_bytes == 5_000_002_000


def test_a_disk_too_small_is_said_before_anything_is_downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 3_000_000_000))
    plan = plan_pull("owner/name", Client())
    with pytest.raises(ResourceError, match=r"owner/name: needs 5\.00 GB more in .*, and 3\.00 GB are free; free some"):
        pull(plan, lambda file, number, count: pytest.fail("nothing is downloaded"), client=Client())
    assert not cache.exists()


SCRIPT = """
import json
from huggingface_hub import constants
from vita.checkpoint.hub_pull import plan_pull, pull
constants.DOWNLOAD_CHUNK_SIZE = 20_000
seen = []
plan = plan_pull("a/b")
print(pull(plan, lambda *_: None, seen.append))
print(json.dumps([plan.total_bytes, seen]))
"""


@pytest.mark.slow
def test_bytes_are_reported_and_lost_connections_are_resumed(mini: Path, tmp_path: Path) -> None:
    """The hub closes the connection after 250 kB; the client, in a process of its own, writes pieces of 20 kB."""
    place = copy_mini(mini, tmp_path / "offered")
    shutil.move(place.parent / VISION, place / VISION)
    with serve(Hub("a/b", place, cut_after=250_000)) as served:
        env = os.environ | {"HF_ENDPOINT": served.endpoint, "HF_HUB_CACHE": str(tmp_path / "c"), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    folder, (total, seen) = Path(done.stdout.decode().splitlines()[0]), json.loads(done.stdout.splitlines()[1])
    for name in served.names():
        if name.endswith(".safetensors"):
            assert (folder / name).read_bytes() == (place / name).read_bytes()
    assert seen == sorted(seen) and seen[-1] == total and len(seen) > 40
    assert len([asked for asked in served.ranges if asked is not None]) == 3, "340 kB take two parts and 552 kB three"


def test_a_partial_file_that_is_too_long_is_downloaded_anew(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (tmp_path / "offered").mkdir()
    (tmp_path / "offered" / "model.safetensors").write_bytes(b"weights" * 100)
    with serve(Hub("a/b", tmp_path / "offered")) as served:
        name = "model.safetensors"
        file = PullFile(name, 700, served.etag(name), cache / served.etag(name))
        cache.mkdir(parents=True)
        file.partial.write_bytes(b"x" * 1000)
        seen: list[int] = []
        hub_pull._download(PullPlan("a/b", "main", (file,), 1 << 40), file, served.endpoint, seen.append)
    assert served.ranges == [None], "all of it is asked for"
    assert file.blob.read_bytes() == b"weights" * 100 and not file.partial.exists()
    assert seen[-1] == 700


def test_a_cache_without_checkpoints_and_with_odd_folders(cache: Path) -> None:
    assert cached_models() == []
    for name in ("models--a--b", "models--a--c/snapshots/x", "datasets--a--b", "models--"):
        (cache / name).mkdir(parents=True)
    (cache / "models--a--c" / "snapshots" / "x" / "config.json").write_text("{not json")
    (cache / "models--file").write_text("")
    assert cached_models() == []
    with pytest.raises(CheckpointError, match="is no VITA checkpoint"):
        remove("a/c")
    with pytest.raises(CheckpointError, match="is not in the hub cache"):
        remove("a/d")
    for no_id in ("../x", "c", ""):
        with pytest.raises(CheckpointError, match="is no hub id"):
            remove(no_id)
