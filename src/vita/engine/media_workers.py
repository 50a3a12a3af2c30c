"""Media workers: threads that read and decode media, so that the engine thread never waits for a file.

Prompts without media have a worker of their own: they wait neither for a long video nor for a read that hangs.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from vita.engine.core_share import CoreShare

WORKERS = 2

Job = Callable[[], None]


class MediaWorkers:
    """Two media workers and one for prompts without media.

    Attributes:
        share: leaves cores to the media workers while they compute.
    """

    def __init__(self) -> None:
        self.share = CoreShare()
        self._media = WorkerPool("vita-media", WORKERS, self.share)
        self._text = WorkerPool("vita-prompt", 1)

    def submit(self, job: Job, *, has_media: bool = True) -> None:
        """See `WorkerPool.submit`."""
        (self._media if has_media else self._text).submit(job)

    def close(self) -> None:
        """See `WorkerPool.close`."""
        self._media.close()
        self._text.close()

    def join(self, seconds: float) -> None:
        """See `WorkerPool.join`."""
        self._text.join(seconds)
        self._media.join(seconds)


class WorkerPool:
    """A few threads that run jobs in order of arrival. They start with the first job and never call torch.

    Args:
        name, count: of the threads.
        share: told while a job runs.
    """

    def __init__(self, name: str, count: int, share: CoreShare | None = None) -> None:
        self._share = share
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._name, self._count = name, count
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, job: Job) -> None:
        """Run a job soon; it reports its result and its errors itself. After `close` it is not run."""
        with self._lock:
            if self._closed:
                return
            self._jobs.put(job)
            if len(self._threads) < self._count:
                # Daemons: a read that hangs must not keep the process from ending.
                thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def close(self) -> None:
        """Let the threads end once their jobs are done."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._jobs.put(None)

    def join(self, seconds: float) -> None:
        """After `close`: wait at most so long for the threads to end. One that hangs in a read does not."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._share is None:
                job()
            else:
                self._share.begin()
                try:
                    job()
                finally:
                    self._share.end()
            del job  # it must not hold on to its engine while the thread waits for the next one
