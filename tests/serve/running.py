"""A server on a free port of this machine, in a thread of the test process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

import vita
from vita.serve.app import create_app
from vita.serve.listen import Listener, base_url, open_socket, uvicorn_config
from vita.serve.options import ServeOptions
from vita.serve.server import Server


@dataclass
class Running:
    """A server that answers.

    Attributes:
        url: of the server, without a path.
        server: its state.
        listener: to stop it.
        loop: that it runs in.
        client: with its base URL, and the first key if there is one.
    """

    url: str
    server: Server
    listener: Listener
    loop: asyncio.AbstractEventLoop
    client: httpx.Client


@contextmanager
def running(model: vita.Vita, options: ServeOptions | None = None) -> Iterator[Running]:
    """Serve a loaded model until the end of the block."""
    options = options or ServeOptions(port=0)
    listening = open_socket(options)
    app = create_app(model, options)
    config = uvicorn_config(app, options)
    config.timeout_graceful_shutdown = config.timeout_keep_alive = 1
    listener = Listener(config, app.state.server)
    loops: list[asyncio.AbstractEventLoop] = []

    async def listen() -> None:
        loops.append(asyncio.get_running_loop())
        await listener.serve(sockets=[listening])

    thread = threading.Thread(target=lambda: asyncio.run(listen()), daemon=True)
    thread.start()
    while not listener.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    url = base_url(options, listening)
    headers = {"Authorization": f"Bearer {options.api_keys[0]}"} if options.api_keys else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
            yield Running(url, app.state.server, listener, loops[0], client)
    finally:
        listener.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
