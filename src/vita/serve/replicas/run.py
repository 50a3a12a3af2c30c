"""Serve with several replicas: start them, listen, and end everything in order."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from vita.options import EngineOptions
from vita.serve.listen import Listener, configured, without_cancelled
from vita.serve.options import ServeOptions
from vita.serve.replicas.child import encode_options
from vita.serve.replicas.local import LocalReplica, environments
from vita.serve.replicas.pool import Launcher, Pool
from vita.serve.replicas.router import Router, as_app
from vita.serve.replicas.sockets import SocketRouter


def local_launchers(model: str | None, engine: EngineOptions, options: ServeOptions, count: int) -> list[LocalReplica]:
    """Replicas as processes of this machine.

    Args:
        model: folder or hub id; None: the embedded model.
        engine: its options.
        options: of the address that clients use.
        count: replicas.
    """
    return [
        LocalReplica(encode_options(model, engine, options, index, count), environment)
        for index, environment in enumerate(environments(count, os.environ))
    ]


@asynccontextmanager
async def routed(launchers: Sequence[Launcher], options: ServeOptions) -> AsyncIterator[tuple[Router, ASGIApp]]:
    """Start the replicas; within the block the application answers.

    Raises:
        ResourceError: a replica cannot be started.
    """
    pool = Pool(launchers)
    await pool.start()
    router = Router(pool, options)
    try:
        yield router, as_app(router, SocketRouter(router))
    finally:
        await router.close()
        await pool.close(options.limits.drain_seconds)


def serve_replicas(
    launchers: Sequence[Launcher], options: ServeOptions, listening: socket.socket, on_ready: Callable[[], None]
) -> None:
    """Answer until SIGINT or SIGTERM; then refuse new requests, let those in progress end, and return.

    Args:
        launchers: of the replicas.
        options: of the address.
        listening: bound to it.
        on_ready: called when all replicas answer.

    Raises:
        ResourceError: a replica cannot be started. RequestError: the certificate cannot be used.
    """

    async def run() -> None:
        async with routed(launchers, options) as (router, app):
            with configured(app, options) as config:
                config.lifespan = "off"
                listening.listen()  # a client that is told the address connects at once
                on_ready()
                await Listener(config, router).serve(sockets=[listening])

    with without_cancelled():
        asyncio.run(run())
