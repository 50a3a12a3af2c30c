"""`vita pull`, `list` and `rm` against a hub on this machine."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scripts.terminal import Terminal
from tests.checkpoint.hub_server import COMMIT, Hub, serve
from tests.checkpoints import VISION, copy_mini, edit_json
from tests.cli.commands import ENV, Ended, assert_sentence
from tests.forks import Forks

REPO = "somebody/mini-vita"
SHARD = "model-00001-of-00002.safetensors"


@dataclass
class User:
    """A user with an empty cache, and a hub that has the mini checkpoint."""

    hub: Hub
    cache: Path
    forks: Forks

    def vita(self, *arguments: str, **env: str) -> Ended:
        clean = {k: v for k, v in ENV.items() if k != "HF_HUB_OFFLINE"}
        set_here = {"HF_ENDPOINT": self.hub.endpoint, "HF_HUB_CACHE": str(self.cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-m", "vita", *arguments]
        done = self.forks.run(command, capture_output=True, env=clean | set_here | env, timeout=120)
        return Ended(done.returncode, done.stdout, done.stderr)

    def blob(self, name: str) -> Path:
        return self.cache / "models--somebody--mini-vita" / "blobs" / self.hub.etag(name)


@pytest.fixture
def user(forks: Forks, mini: Path, tmp_path: Path) -> Iterator[User]:
    place = copy_mini(mini, tmp_path / "offered")
    shutil.move(place.parent / VISION, place / VISION)
    with serve(Hub(REPO, place)) as hub:
        yield User(hub, tmp_path / "cache", forks)


@pytest.mark.slow
def test_pull_list_ask_and_rm(user: User) -> None:
    assert b"default" in user.vita("list").stdout
    done = user.vita("pull", REPO)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 0, lines
    assert lines[0].startswith(f"vita: {REPO}: 1.1 MB in 12 files, 0.0 kB of them here; ") and " free in " in lines[0]
    assert [line.split(",")[0] for line in lines[1:]][-1] == f"vita: 3 of 3: {SHARD.replace('00001', '00002', 1)}"
    folder = Path(done.stdout.decode().strip())
    assert folder.name == COMMIT and (folder / SHARD).read_bytes() == (user.hub.folder / SHARD).read_bytes()
    listed = json.loads(user.vita("list", "--json").stdout)["models"]
    assert [(m["model"], m["complete"]) for m in listed] == [("default", True), (REPO, True)]
    asked = user.vita("ask", "Hello", "--model", REPO, "--offline", "--max-tokens", "2")
    assert asked.returncode == 0 and asked.stdout, asked.stderr
    before = len(user.hub.ranges)
    again = user.vita("pull", REPO)
    assert again.returncode == 0 and b"1.1 MB of them here" in again.stderr and len(user.hub.ranges) == before
    removed = user.vita("rm", REPO)
    assert removed.stdout.decode() == f"{REPO}: removed, 1.1 MB freed\n" and removed.stderr == b""
    assert not [f for f in user.cache.rglob("*") if f.is_file() and "somebody" in str(f)]
    assert_sentence(user.vita("rm", REPO), f"{REPO}: is not in the hub cache; see vita list")


@pytest.mark.slow
def test_a_terminal_shows_how_far_it_is(user: User) -> None:
    shown: set[str] = set()
    env = {k: v for k, v in ENV.items() if k != "HF_HUB_OFFLINE"} | {
        "HF_ENDPOINT": user.hub.endpoint, "HF_HUB_CACHE": str(user.cache), "HF_HUB_DISABLE_TELEMETRY": "1",
        "TERM": "xterm-256color",
    }  # fmt: skip
    command = [sys.executable, "-m", "vita", "pull", REPO]
    with Terminal(command, columns=200, rows=20, env=env, changed=lambda screen: shown.update(screen.display)) as pull:
        assert pull.end(120) == 0, pull.text
        first, folder = pull.lines
    assert first.startswith(f"vita: {REPO}: 1.1 MB in 12 files") and Path(folder).name == COMMIT
    bars = [line for line in shown if re.match(r"file \d of 3 ", line)]
    assert any(re.search(r"\d/1\.1 MB", line) for line in bars), shown


def test_a_partial_file_is_resumed_where_it_ends(user: User) -> None:
    data = (user.hub.folder / SHARD).read_bytes()
    partial = user.blob(SHARD).with_name(user.blob(SHARD).name + ".partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(data[:100_000])  # what an interrupted run leaves
    done = user.vita("pull", REPO)
    assert done.returncode == 0 and f"{SHARD}, " in done.stderr.decode() and b"100.0 kB of it here" in done.stderr
    assert "bytes=100000-" in user.hub.ranges and user.blob(SHARD).read_bytes() == data and not partial.exists()


@pytest.mark.slow
def test_a_damaged_partial_file_is_dropped_and_said(user: User) -> None:
    partial = user.blob(SHARD).with_name(user.blob(SHARD).name + ".partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 100_000)
    done = user.vita("pull", REPO)
    assert done.returncode == 2 and f"vita: {REPO}/{SHARD}: arrived damaged; run the same" in done.stderr.decode()
    assert not partial.exists() and not user.blob(SHARD).exists()
    listed = user.vita("list").stdout.decode()
    assert f"incomplete; vita pull {REPO} resumes" in listed
    assert user.vita("pull", REPO).returncode == 0
    assert "incomplete" not in user.vita("list").stdout.decode()


@pytest.mark.slow
def test_another_model_is_refused_before_its_weights_are_downloaded(user: User) -> None:
    edit_json(user.hub.folder / "config.json", lambda c: c.update(model_type="llama"))
    done = user.vita("pull", REPO)
    assert done.returncode == 2 and b"llama" in done.stderr and b"Traceback" not in done.stderr
    assert not user.hub.ranges
    assert REPO not in user.vita("list").stdout.decode(), "other programs' models are not listed"
    assert_sentence(user.vita("rm", REPO), "is in the hub cache but is no VITA checkpoint; remove it with 'hf cache'")
    assert user.cache.is_dir() and any(user.cache.rglob("config.json"))


def test_no_weights_and_no_repository(user: User) -> None:
    for file in user.hub.folder.rglob("*.safetensors"):
        file.unlink()
    assert_sentence(user.vita("pull", REPO), f"{REPO}: holds no weights in safetensors files")
    assert_sentence(user.vita("pull", "nobody/nothing"), "is neither a folder here nor a repository on the hub")


@pytest.mark.parametrize("command", ["pull", "rm"])
def test_what_never_is_in_the_cache_is_named(command: str, user: User) -> None:
    """The embedded model, a folder, and what is no hub id."""
    embedded = {"pull": "there is nothing to download", "rm": "vita list shows what can be removed"}[command]
    said = f"vita: default: is the embedded model, a part of the package; {embedded}."
    assert_sentence(user.vita(command, "default"), said)
    folder = str(user.hub.folder)
    assert_sentence(user.vita(command, folder), f"vita: {folder}: is a folder and not in the hub cache; {embedded}.")
    assert_sentence(user.vita(command, "mini"), "vita: mini: is no hub id; pass one like owner/name.")
    assert_sentence(user.vita(command, ""), "vita: '': is no hub id; pass one like owner/name.")
    assert user.hub.folder.is_dir() and not user.cache.exists()


def test_no_network_is_one_sentence(user: User) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert_sentence(user.vita("pull", REPO, **nowhere), REPO, "could not be downloaded", "check the network")
    assert_sentence(user.vita("pull", REPO, HF_HUB_OFFLINE="1"), "offline mode is on; unset HF_HUB_OFFLINE")
    assert not user.cache.exists()
