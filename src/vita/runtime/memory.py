"""Memory of this process and machine: available bytes, peak bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
    return min(free, _cgroup_available()) if device.type == "cpu" else free


def _cgroup_available() -> int:
    """Bytes below the container's memory limit; 2**62 without a limit."""
    limit, usage = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        text = limit.read_text().strip()
        if text == "max":
            return 1 << 62
        # The page cache counts as used, but the kernel frees it on demand; memory-mapped weights are in it.
        stat = dict(line.split() for line in usage.with_name("memory.stat").read_text().splitlines())
        cached = int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0))
        return max(0, int(text) - int(usage.read_text()) + cached)
    except (OSError, ValueError):
        return 1 << 62
