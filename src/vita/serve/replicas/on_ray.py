"""Replicas on the nodes of a Ray cluster: an actor each, which starts the server process beside it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from vita.errors import RequestError, ResourceError
from vita.serve.replicas.child import LOOPBACK, encode_options

if TYPE_CHECKING:
    from vita.options import EngineOptions
    from vita.serve.options import ServeOptions

LOCAL = "local"  # instead of a cluster's address: Ray on this machine alone
ENDED = -9  # exit code of a replica whose node is gone
PLACE_SECONDS = 600.0  # to find a node and load the model there


class Host:
    """The actor: a replica's process on its node. It ends with the actor, whose end closes its stdin."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, options: str) -> dict[str, Any]:
        """Start the process; its message, and the address of the node."""
        import ray

        address = ray.util.get_node_ip_address()
        fields = json.loads(options)
        if not fields["local"]:
            fields["bind"] = address
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "vita.serve.replicas.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(fields).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line.strip() else {"error": "ended before it answered"}
        return found | {"host": fields.get("bind", LOOPBACK), "pid": process.pid}

    def wait(self) -> int:
        """Wait until the process has ended; its exit code."""
        assert self._process is not None
        return self._process.wait()

    def stop(self, seconds: float) -> None:
        """Let the process end what is in progress."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()


class RayReplica:
    """Starts one replica somewhere in the cluster, again and again.

    Args:
        options: of `encode_options`.
        cpus, gpus: that Ray reserves for it.
        local: the cluster is this machine.
    """

    def __init__(self, options: str, cpus: float, gpus: float, *, local: bool) -> None:
        self._options = json.dumps({**json.loads(options), "local": local})
        self._cpus, self._gpus = cpus, gpus
        self._actor: Any = None
        self.pid: int | None = None

    async def start(self) -> str:
        """Place the actor and wait until its process answers; its base URL.

        Raises:
            ResourceError: there is no node for it, or the replica cannot start.
        """
        import ray

        self.kill()
        actor = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_concurrency=3)(Host)
        self._actor = actor.remote()
        try:
            found = await asyncio.wait_for(self._actor.start.remote(self._options), PLACE_SECONDS)
        except (ray.exceptions.RayError, asyncio.TimeoutError, TimeoutError) as error:
            raise ResourceError(f"cannot be placed ({type(error).__name__})", where="replica") from error
        if "port" not in found:
            raise ResourceError(str(found["error"]).rstrip("."), where="replica")
        self.pid = int(found["pid"])
        return f"http://{found['host']}:{found['port']}"

    async def wait(self) -> int:
        """Wait until the process, its actor or its node has ended; its exit code, or -9."""
        import ray

        try:
            return int(await self._actor.wait.remote())
        except ray.exceptions.RayError:
            return ENDED

    def kill(self) -> None:
        """End it at once."""
        import ray

        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    async def stop(self, seconds: float) -> None:
        """Let it end what is in progress, for some seconds at most."""
        import ray

        if self._actor is None:
            return
        try:
            await asyncio.wait_for(self._actor.stop.remote(seconds), seconds + 5)
        except (ray.exceptions.RayError, asyncio.TimeoutError, TimeoutError):
            logging.getLogger("vita.serve").info("a replica was gone before it was stopped")
        self.kill()


def ray_launchers(
    address: str, model: str | None, engine: EngineOptions, options: ServeOptions, count: int
) -> list[RayReplica]:
    """Replicas on a Ray cluster.

    Args:
        address: of the cluster ("auto", "host:port"), or "local": Ray on this machine, on loopback.
        model, engine, options, count: as for `local_launchers`.

    Raises:
        RequestError: other nodes would answer without a key. ResourceError: Ray is not installed, or not there.
    """
    if find_spec("ray") is None:
        raise ResourceError("`ray` needs the package ray", fix='run pip install "vita-engine[ray]"')
    local = address == LOCAL
    if not local and not options.api_keys:
        what = "replicas on other nodes can be reached from other machines, so an API key is needed"
        raise RequestError(what, where="ray", fix="set VITA_API_KEY, or name a file with `api_key_file`")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only
    import ray

    try:
        if local:
            ray.init(include_dashboard=False, _node_ip_address=LOOPBACK, log_to_driver=False)
        else:
            ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(f"there is no Ray cluster at {address} ({error})", where="ray") from error
    there = ray.cluster_resources()
    gpus = min(1.0, there.get("GPU", 0.0) / count) if engine.device in ("auto", "cuda") else 0.0
    cpus = max(1, int(there.get("CPU", 1.0) // count)) if not gpus else 1
    if not gpus and engine.threads is None:
        engine = replace(engine, threads=cpus)
    reserved = min(float(cpus), there.get("CPU", 1.0) / count)
    lines = [encode_options(model, engine, options, index, count) for index in range(count)]
    return [RayReplica(line, reserved, gpus, local=local) for line in lines]
