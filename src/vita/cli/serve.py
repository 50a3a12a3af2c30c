"""`vita serve`: OpenAI's API over HTTP."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vita.checkpoint.files import is_file
from vita.cli.loading import load_model
from vita.errors import RequestError, ResourceError

if TYPE_CHECKING:
    from vita.options import EngineOptions
    from vita.serve.options import ServeOptions
    from vita.serve.replicas.pool import Launcher
    from vita.serve.served_model import ServedModel

MAX_REPLICAS = 64
PACKAGES = ("fastapi", "uvicorn", "multipart", "prometheus_client", "websockets")


@dataclass(frozen=True, kw_only=True)
class ServeFlags:
    """The arguments of one call."""

    model: str | None
    options: EngineOptions
    host: str
    port: int
    api_key_file: Path | None
    allow_hosts: tuple[str, ...]
    allow_origins: tuple[str, ...]
    allow_media_domains: tuple[str, ...]
    max_tokens: int
    voice: str | None
    ssl_certfile: Path | None
    ssl_keyfile: Path | None
    self_signed: bool
    log_content: bool
    verbose: bool
    replicas: int = 1
    ray: str | None = None
    engine: str = "vita"
    engine_args: str = ""


def run_serve(flags: ServeFlags) -> int:
    """Load the model, listen, answer until told to stop; returns the exit code.

    Raises:
        VitaError: an option, the model, or the address cannot be used.
    """
    from vita.serve.engines import check_engine

    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ResourceError(
            f"`vita serve` needs packages that are not installed ({', '.join(missing)})",
            fix='run pip install "vita-engine[serve]"',
        )
    options = serve_options(flags)
    check_engine(flags.options, options)
    if flags.replicas != 1 or flags.ray is not None:
        return run_replicas(flags, options)
    from vita.serve.app import create_app
    from vita.serve.listen import base_url, open_socket, serve
    from vita.speech.voice import choose_voice

    listening = open_socket(options)
    try:
        model, loaded = load_for_engine(flags, options)
        if options.voice is not None:
            choose_voice(options.voice, model.checkpoint_voice)  # a name that there is not ends here
        logging.getLogger("vita.serve").setLevel(logging.INFO)
        listening.listen()  # a client that reads the address connects at once
        print_ready(loaded, options, base_url(options, listening))
        with model:
            serve(create_app(model, options), listening)
    finally:
        listening.close()
    return 0


def run_replicas(flags: ServeFlags, options: ServeOptions) -> int:
    """Start the replicas, and route to them until told to stop; returns the exit code.

    Raises:
        VitaError: an option, the model, or the address cannot be used.
    """
    if not 1 <= flags.replicas <= MAX_REPLICAS:
        raise RequestError(f"must be 1 to {MAX_REPLICAS}, not {flags.replicas}", where="replicas")
    if find_spec("httpx") is None:
        raise ResourceError("`replicas` needs the package httpx", fix='run pip install "vita-engine[serve]"')
    from vita.serve.listen import base_url, open_socket
    from vita.serve.replicas.on_ray import ray_launchers
    from vita.serve.replicas.run import local_launchers, serve_replicas

    logging.basicConfig(level=logging.INFO if flags.verbose else logging.WARNING, format="vita: %(message)s")
    logging.getLogger("vita.serve").setLevel(logging.INFO)
    listening = open_socket(options)
    try:
        url = base_url(options, listening)
        launchers: Sequence[Launcher]
        if flags.ray is None:
            launchers = local_launchers(flags.model, flags.options, options, flags.replicas)
        else:
            launchers = ray_launchers(flags.ray, flags.model, flags.options, options, flags.replicas)
        serve_replicas(launchers, options, listening, lambda: print_replicas(flags.replicas, options, url))
    finally:
        listening.close()
    return 0


def print_replicas(count: int, options: ServeOptions, url: str) -> None:
    """How many replicas there are, and where they answer; on stderr."""
    key = " (needs a key)" if options.api_keys else ""
    for line in (f"{count} replicas", f"page: {url}/", f"API base URL: {url}/v1{key}", "Ctrl-C stops them"):
        print(f"vita: {line}", file=sys.stderr)
    sys.stderr.flush()


def serve_options(flags: ServeFlags) -> ServeOptions:
    """The server's options.

    Raises:
        RequestError: a value that cannot be used.
    """
    from vita.serve.options import Limits, ServeOptions, read_keys

    if flags.max_tokens < 1:
        raise RequestError(f"must be 1 or more, not {flags.max_tokens}", where="max_tokens")
    if flags.ssl_certfile is not None and not is_file(flags.ssl_certfile):
        raise RequestError("no such file", where=flags.ssl_certfile, fix="check the path")
    return ServeOptions(
        host=flags.host, port=flags.port, api_keys=read_keys(os.environ, flags.api_key_file),
        allow_hosts=flags.allow_hosts, allow_origins=flags.allow_origins,
        allow_media_domains=flags.allow_media_domains, limits=Limits(tokens=flags.max_tokens),
        log_content=flags.log_content, ssl_certfile=flags.ssl_certfile, ssl_keyfile=flags.ssl_keyfile,
        self_signed=flags.self_signed, voice=flags.voice, engine=flags.engine, engine_args=flags.engine_args,
    )  # fmt: skip


def load_for_engine(flags: ServeFlags, options: ServeOptions) -> tuple[ServedModel, list[str]]:
    """The model, warm, and what is said of it.

    Raises:
        VitaError: it cannot be loaded.
    """
    from vita.serve.engines import load_served
    from vita.serve.options import VITA_ENGINE

    if options.engine != VITA_ENGINE:
        logging.basicConfig(level=logging.INFO if flags.verbose else logging.WARNING, format="vita: %(message)s")
        served = load_served(flags.model, flags.options, options)
        return served, [repr(served).strip("<>")]
    model = load_model(flags.model, flags.options, verbose=flags.verbose)
    model.warm_up()
    engine = model.engine
    kv_budget = engine.model.memory_plan.kv_budget
    memory = (
        f"memory: {engine.model.weight_bytes / 1e6:,.0f} MB are read for each token, "
        f"{kv_budget / 1e6:,.0f} MB hold the KV caches of all requests"
    )
    return model, [f"{model!r}".strip("<>").replace("vita.Vita", "model"), memory]


def print_ready(loaded: Sequence[str], options: ServeOptions, url: str) -> None:
    """What was loaded, what it takes, and where it answers; on stderr."""
    lines = [
        *loaded, f"page: {url}/", f"API base URL: {url}/v1" + (" (needs a key)" if options.api_keys else ""),
        "Ctrl-C stops it",
    ]  # fmt: skip
    for line in lines:
        print(f"vita: {line}", file=sys.stderr)
    sys.stderr.flush()
