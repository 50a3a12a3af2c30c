"""Memory of this process and machine: available bytes, peak bytes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class _Files:
    """Names of a control group's files, and of the counters of `memory.stat` for the page cache, children included."""

    limit: str
    usage: str
    cached: tuple[str, str]


V2 = _Files("memory.max", "memory.current", ("active_file", "inactive_file"))
V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))


def peak_memory(device: torch.device) -> int:
    """Peak bytes since the start or `reset_peak`: resident set of this process, or memory allocated on the GPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "linux":
        line = next((x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM:")), None)
        if line is not None:
            return int(line.split()[1]) * 1024
    import psutil

    info = psutil.Process().memory_info()
    if sys.platform == "win32":
        return int(getattr(info, "peak_wset", info.rss))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def reset_peak(device: torch.device) -> bool:
    """Restart `peak_memory` from the memory in use now; False where the system does not support it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text("5")  # 5 resets only the peak resident set size, see proc(5)
    except OSError:
        return False
    return True


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device."""
    if device.type == "cuda":
        # Free memory inside PyTorch's caching allocator, which it reuses.
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + idle
    import psutil

    free = int(psutil.virtual_memory().available)
    return min(free, cgroup_available()) if device.type == "cpu" else free


def cgroup_available(root: Path = Path("/")) -> int:
    """Bytes below the memory limits of this process's control groups; 2**62 without a limit.

    A service or a pod has its limit in a group below the mounted one, or in a parent of its own; the lowest counts.

    Args:
        root: of the file system, another one in tests.
    """
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:
        lines = ["0::/"]
    found = [1 << 62]
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            files, mount = V2, mounted
        elif "memory" in controllers.split(","):
            files, mount = V1, mounted / "memory"
        else:
            continue
        found += [_group_available(group, files) for group in _groups(mount, path)]
    return min(found)


def _groups(mount: Path, path: str) -> list[Path]:
    """The folder of a group and those of its parents. Inside a container the path may be that of the machine, which is
    not mounted here; then the mounted one is the container's own."""
    group = mount / path.strip("/")
    if ".." in group.parts or not group.is_dir():
        return [mount]
    return [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]


def _group_available(group: Path, files: _Files) -> int:
    try:
        text = (group / files.limit).read_text().strip()
        if text == "max":
            return 1 << 62
        used = int((group / files.usage).read_text())
        # The page cache counts as used, but the kernel frees it on demand; memory-mapped weights are in it.
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = sum(int(stat.get(name, 0)) for name in files.cached)
        return max(0, int(text) - used + cached)
    except (OSError, ValueError):  # the root group has no limit
        return 1 << 62
