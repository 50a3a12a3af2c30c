"""A process that ends this one when its time is up, whatever it is doing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

LONGEST_START = 120.0  # seconds; some sandboxes say nonsense about when a process began
# Kills by number: signals to a process group would end the shell that waits for us.
_CODE = """
import os, signal, sys, time
pid, end = int(sys.argv[1]), float(sys.argv[2])
while time.monotonic() < end:
    time.sleep(0.2)
    if os.getppid() != pid:
        sys.exit()
print("watchdog: the time is up, the run is stopped; its last state is complete", file=sys.stderr, flush=True)
os.kill(pid, signal.SIGKILL)
"""


def process_age() -> float:
    """Seconds since this process began, its imports included; 0 where the system does not say."""
    try:
        began = float(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return 0.0
    return age if 0 < age < LONGEST_START else 0.0


class Watchdog:
    """Ends this process so many seconds after a moment of `time.monotonic`, unless it is left before."""

    def __init__(self, seconds: float, began: float) -> None:
        self.end = began + seconds

    def __enter__(self) -> Watchdog:
        self._process = subprocess.Popen([sys.executable, "-c", _CODE, str(os.getpid()), str(self.end)])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
