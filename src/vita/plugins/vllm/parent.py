"""vLLM's processes end with the server that started them, and not before it.

vLLM's engine process does not notice the death of its parent: it would hold the GPU's memory while a server that was
killed is started again. And it gets the Ctrl-C of a terminal, as all processes of its group do, while the server lets
requests end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

VARIABLE = "VITA_VLLM_FOLLOW_PARENT"  # inherited by vLLM's processes


def follow_parent() -> None:
    """Ignore SIGINT and watch the parent from now on, if `VARIABLE` is set and vLLM started this process."""
    parent = multiprocessing.parent_process()
    if parent is None or not os.environ.get(VARIABLE):
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="vita-parent", daemon=True).start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
