"""One replica: a server process that another process starts, and that ends with it.

It reads its options as one JSON object from stdin and writes `{"port": …}` or `{"error": …}` to stdout. When stdin is
closed, because the starting process has ended in any way, it stops.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TextIO

from vita.errors import VitaError
from vita.options import EngineOptions
from vita.serve.engines import load_served
from vita.serve.options import Limits, ServeOptions

if TYPE_CHECKING:
    from vita.serve.served_model import ServedModel

LOOPBACK = "127.0.0.1"


def encode_options(model: str | None, engine: EngineOptions, serve: ServeOptions, index: int, count: int) -> str:
    """The options of a replica as one line.

    Args:
        model: folder or hub id.
        engine: of the model.
        serve: of the address that clients use. Replicas check host, origin and key; TLS ends before them.
        index, count: which of how many replicas it is.
    """
    plain = replace(serve, ssl_certfile=None, ssl_keyfile=None, self_signed=False)
    fields = {"model": model, "engine": asdict(engine), "serve": asdict(plain), "index": index, "count": count}
    return json.dumps(fields, default=str)


def main(out: TextIO) -> None:
    """Load, listen on a free port of this machine, and answer until stdin is closed or a signal comes."""
    from vita.serve.app import create_app
    from vita.serve.listen import open_socket, serve

    fields = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_at_end_of, args=(sys.stdin,), daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format=f"vita: replica {fields['index']}: %(message)s")
    logging.getLogger("vita.serve").setLevel(logging.INFO)  # requests, and content if it is asked for
    try:
        options = decode_serve_options(fields["serve"])
        listening = open_socket(replace(options, host=fields.get("bind", LOOPBACK), port=0))
        model = load(fields, options)
    except VitaError as error:
        print(json.dumps({"error": error.sentence()}), file=out, flush=True)
        return
    with model:
        app = create_app(model, options)
        listening.listen()  # connections wait until the event loop accepts them
        print(json.dumps({"port": listening.getsockname()[1]}), file=out, flush=True)
        serve(app, listening)
    listening.close()


def decode_serve_options(fields: dict[str, Any]) -> ServeOptions:
    """The options that `encode_options` wrote."""
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return ServeOptions(**{**fields, **lists, "limits": Limits(**fields["limits"])})


def load(fields: dict[str, Any], serve: ServeOptions) -> ServedModel:
    """The model, warm. Replicas share the CPU's cores.

    Raises:
        VitaError: it cannot be loaded.
    """
    options = EngineOptions(**fields["engine"])
    if options.threads is None:
        options = replace(options, threads=max(1, len(_cores()) // fields["count"]))
    return load_served(fields["model"], options, serve)


def _cores() -> set[int]:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _stop_at_end_of(stream: TextIO) -> None:
    while stream.read(1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no message
    main(stdout)
    os._exit(0)  # the interpreter's shutdown takes a third of a second with PyTorch loaded
