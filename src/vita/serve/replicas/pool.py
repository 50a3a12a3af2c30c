"""The replicas of one server: started, watched, started again, and chosen."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import httpx

from vita.errors import ResourceError
from vita.serve.errors import unavailable
from vita.serve.replicas.routing import Ring

log = logging.getLogger("vita.serve")
WAIT_SECONDS = 60.0  # that a request waits for a replica to be ready
BACKOFF_SECONDS, MAX_BACKOFF, STEADY_SECONDS = 0.2, 30.0, 60.0


class Launcher(Protocol):
    """Starts one replica somewhere."""

    async def start(self) -> str:
        """Start it and wait until it answers; its base URL.

        Raises:
            ResourceError: it cannot be started.
        """

    async def wait(self) -> int:
        """Wait until it has ended; its exit code."""

    def kill(self) -> None:
        """End it at once."""

    async def stop(self, seconds: float) -> None:
        """Let it end what is in progress, for some seconds at most."""


@dataclass
class Replica:
    """One replica.

    Attributes:
        index: its number, from 0.
        launcher: starts it.
        url: of its server; None while it does not answer.
        generation: how often it was started.
        active: requests that it has now.
    """

    index: int
    launcher: Launcher
    url: str | None = None
    generation: int = 0
    active: int = 0


class Pool:
    """All replicas.

    Args:
        launchers: of each replica, one or more.
        check_seconds: between two checks of a replica.
        hang_seconds: without an answer to a check after which it is ended.
    """

    def __init__(
        self, launchers: Sequence[Launcher], *, check_seconds: float = 5.0, hang_seconds: float = 60.0
    ) -> None:
        self._check_seconds, self._hang_seconds = check_seconds, hang_seconds
        self.replicas = [Replica(index, launcher) for index, launcher in enumerate(launchers)]
        self._ring = Ring(len(self.replicas))
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def start(self) -> None:
        """Start all replicas and wait for all of them.

        Raises:
            ResourceError: one of them cannot be started.
        """
        try:
            await asyncio.gather(*(self._start(replica) for replica in self.replicas))
        except BaseException:
            await self.close(0.0)
            raise
        self._tasks += [asyncio.create_task(self._keep(replica)) for replica in self.replicas]
        self._tasks += [asyncio.create_task(self._check(replica)) for replica in self.replicas]

    async def close(self, seconds: float) -> None:
        """End all replicas; they have some seconds for what is in progress."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(replica.launcher.stop(seconds) for replica in self.replicas))

    async def _start(self, replica: Replica) -> None:
        url = await replica.launcher.start()
        replica.generation += 1
        replica.url = url
        self._changed.set()

    async def _keep(self, replica: Replica) -> None:
        """Start a replica again whenever it has ended."""
        pause = BACKOFF_SECONDS
        while True:
            began = time.monotonic()
            if replica.url is not None:
                code = await replica.launcher.wait()
                replica.url = None
                log.warning("replica %d has ended (code %d) and is started again", replica.index, code)
            if time.monotonic() - began > STEADY_SECONDS:
                pause = BACKOFF_SECONDS
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_BACKOFF)
            try:
                await self._start(replica)
            except (ResourceError, OSError) as error:
                log.warning("replica %d cannot be started: %s", replica.index, error)

    async def _check(self, replica: Replica) -> None:
        """End a replica that does not answer any more."""
        async with httpx.AsyncClient(trust_env=False, timeout=self._hang_seconds) as client:
            while True:
                await asyncio.sleep(self._check_seconds)
                url = replica.url
                if url is None:
                    continue
                try:
                    await client.get(f"{url}/health")
                except httpx.TimeoutException:
                    if replica.url == url:
                        log.warning("replica %d does not answer and is ended", replica.index)
                        replica.launcher.kill()
                except httpx.TransportError:
                    continue  # it has ended, which `_keep` sees

    async def choose(
        self, key: bytes | None, avoid: Mapping[tuple[int, int], float], index: int | None = None
    ) -> Replica:
        """The replica for a request.

        Args:
            key: of its routing; None: the replica with the fewest requests.
            avoid: index and generation of replicas that were lost or have refused this request, with the time until
                which they are not tried again.
            index: the replica that it must have, if that one is there.

        Raises:
            ApiError: 503, there was none for a minute.
        """
        end = time.monotonic() + WAIT_SECONDS
        while not self._closing:
            self._changed.clear()
            now = time.monotonic()
            ready = [r for r in self.replicas if r.url is not None]
            there = [r for r in ready if avoid.get((r.index, r.generation), 0.0) <= now]
            if there:
                return min(there, key=self._preference(key, index))
            left = end - now
            if left <= 0 or (ready and all(avoid.get((r.index, r.generation)) == math.inf for r in ready)):
                break
            with suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, 0.5))
        raise unavailable("No replica is available; try again later.")

    def _preference(self, key: bytes | None, index: int | None) -> Callable[[Replica], tuple[int, int]]:
        if index is not None:
            return lambda replica: (replica.index != index, replica.active)
        if key is None:
            return lambda replica: (replica.active, replica.index)
        order = {number: place for place, number in enumerate(self._ring.order(key))}
        return lambda replica: (order[replica.index], 0)
