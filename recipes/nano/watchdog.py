"""A process that ends this one when its time is up, whatever it is doing."""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType

# Kills by number: signals to a process group would end the shell that waits for us.
_CODE = """
import os, signal, sys, time
pid, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    time.sleep(0.2)
    if os.getppid() != pid:
        sys.exit()
print("watchdog: the time is up, the run is stopped; its last state is complete", file=sys.stderr, flush=True)
os.kill(pid, signal.SIGKILL)
"""


class Watchdog:
    """Ends this process after so many seconds unless it is left before."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> Watchdog:
        self._process = subprocess.Popen([sys.executable, "-c", _CODE, str(os.getpid()), str(self.seconds)])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
