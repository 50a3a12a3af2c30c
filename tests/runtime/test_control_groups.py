"""The memory limit of a control group, of either version, at whatever level it is set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vita.runtime import memory
from vita.runtime.memory import available_memory, cgroup_available

UNLIMITED = 1 << 62
STAT = "anon 5\nactive_file 20\ninactive_file 30\ntotal_active_file 200\ntotal_inactive_file 300\n"


def own(root: Path, text: str) -> None:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(text)


def group(root: Path, path: str, limit: object, used: int, *, version: int = 2) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(STAT)


def test_the_mounted_group_is_the_containers(tmp_path: Path) -> None:
    own(tmp_path, "0::/\n")
    group(tmp_path, "", 1000, 400)
    assert cgroup_available(tmp_path) == 1000 - 400 + 50, "the page cache is freed on demand"
    (tmp_path / "proc/self/cgroup").unlink()
    assert cgroup_available(tmp_path) == 650


def test_a_limit_below_the_mounted_group(tmp_path: Path) -> None:
    """As `systemd-run -p MemoryMax=` sets it. The root group has no files."""
    own(tmp_path, "0::/system.slice/vita.service\n")
    group(tmp_path, "system.slice", "max", 9000)
    group(tmp_path, "system.slice/vita.service", 2000, 500)
    group(tmp_path, "system.slice/other.service", 1, 0)
    assert cgroup_available(tmp_path) == 2000 - 500 + 50


def test_the_lowest_of_the_parents_counts(tmp_path: Path) -> None:
    own(tmp_path, "0::/a/b/c\n")
    group(tmp_path, "a", 3000, 2900)
    group(tmp_path, "a/b", "max", 700)
    group(tmp_path, "a/b/c", 5000, 600)
    assert cgroup_available(tmp_path) == 3000 - 2900 + 50
    group(tmp_path, "a", 3000, 4000)
    assert cgroup_available(tmp_path) == 0


@pytest.mark.parametrize("path", ["/docker/0123", "/../../machine.slice", "/gone (deleted)", ""])
def test_a_path_that_is_not_mounted_here_means_the_mounted_group(tmp_path: Path, path: str) -> None:
    own(tmp_path, f"0::{path}\n")
    group(tmp_path, "", 1000, 400)
    assert cgroup_available(tmp_path) == 650


def test_version_one(tmp_path: Path) -> None:
    own(tmp_path, "9:cpu,cpuacct:/pod/app\n4:memory:/pod/app\n1:name=systemd:/pod/app\n0::/\n")
    group(tmp_path, "memory", 9223372036854771712, 10**9, version=1)
    assert cgroup_available(tmp_path) == UNLIMITED
    group(tmp_path, "memory/pod", 8000, 7000, version=1)
    group(tmp_path, "memory/pod/app", 4000, 1000, version=1)
    assert cgroup_available(tmp_path) == 8000 - 7000 + 500


@pytest.mark.parametrize("text", ["", "\n", "nonsense\n", "0::/\n", "4:cpu:/\n"])
def test_no_limit(tmp_path: Path, text: str) -> None:
    own(tmp_path, text)
    assert cgroup_available(tmp_path) == UNLIMITED
    group(tmp_path, "", "many", 3)
    assert cgroup_available(tmp_path) == UNLIMITED


def test_a_limit_lowers_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert 0 < available_memory(cpu) < UNLIMITED
    monkeypatch.setattr(memory, "cgroup_available", lambda: 12345)
    assert available_memory(cpu) == 12345
