"""Replicas behind a router on a free port of this machine, in an event loop of its own thread."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from vita.options import EngineOptions
from vita.serve.listen import Listener, base_url, configured, open_socket
from vita.serve.options import ServeOptions
from vita.serve.replicas.local import LocalReplica
from vita.serve.replicas.router import Router
from vita.serve.replicas.run import local_launchers, routed

SECONDS = 180.0


@dataclass
class Routed:
    """A router that answers.

    Attributes:
        url: of the router, without a path.
        router: its state.
        launchers: of the replicas.
        client: with its base URL.
    """

    url: str
    router: Router
    launchers: list[LocalReplica]
    client: httpx.Client
    killed: dict[int, int] = field(default_factory=dict)

    def kill(self, index: int) -> None:
        """Kill a replica with -9."""
        pid = self.launchers[index].pid
        assert pid is not None
        self.killed[index] = pid
        os.kill(pid, signal.SIGKILL)

    def wait_ready(self) -> None:
        """Until all replicas answer, and a kill was noticed."""
        end = time.monotonic() + SECONDS
        while any(r.url is None or self._is_gone(r.index) for r in self.router.pool.replicas):
            assert time.monotonic() < end, "a replica was not started again"
            time.sleep(0.02)

    def _is_gone(self, index: int) -> bool:
        return self.launchers[index].pid == self.killed.get(index)


@contextmanager
def replicas(count: int, options: ServeOptions | None = None) -> Iterator[Routed]:
    """Serve the embedded model with several replicas until the end of the block."""
    options = options or ServeOptions(port=0)
    listening = open_socket(options)
    launchers = local_launchers(None, EngineOptions(device="cpu"), options, count)
    began: list[tuple[Router, Listener]] = []
    failed: list[BaseException] = []

    async def serve() -> None:
        async with routed(launchers, options) as (router, app):
            with configured(app, options) as config:
                config.lifespan = "off"
                listener = Listener(config, router)
                began.append((router, listener))
                await listener.serve(sockets=[listening])

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    end = time.monotonic() + SECONDS
    while not (began and began[0][1].started):
        assert thread.is_alive() and time.monotonic() < end, failed or "the router did not start"
        time.sleep(0.02)
    url = base_url(options, listening)
    headers = {"Authorization": f"Bearer {options.api_keys[0]}"} if options.api_keys else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=SECONDS, trust_env=False) as client:
            yield Routed(url, began[0][0], launchers, client)
    finally:
        began[0][1].should_exit = True
        thread.join(60)
        listening.close()
        assert not thread.is_alive(), "the router did not stop"
