"""vLLM's processes end with the server that started them, also if that is killed.

vLLM's engine process does not notice the death of its parent. It would go on, and hold the GPU's memory, while the
server is started again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

VARIABLE = "VITA_VLLM_END_WITH_PARENT"  # inherited by vLLM's processes


def end_with_parent() -> None:
    """Watch the parent from now on, if `VARIABLE` is set and vLLM started this process."""
    parent = multiprocessing.parent_process()
    if parent is None or not os.environ.get(VARIABLE):
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="vita-parent", daemon=True).start()
