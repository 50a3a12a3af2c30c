"""A replica as a child process of this machine."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping

from vita.errors import ResourceError
from vita.serve.replicas.child import LOOPBACK


class LocalReplica:
    """Starts one replica, again and again.

    Args:
        options: of `encode_options`.
        environment: of the process.
    """

    def __init__(self, options: str, environment: Mapping[str, str]) -> None:
        self._options, self._environment = options, dict(environment)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return None if self._process is None else self._process.pid

    async def start(self) -> str:
        """Start the process and wait until it answers; its base URL.

        Raises:
            ResourceError: it ended, or said why it cannot start.
        """
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "vita.serve.replicas.child", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=self._environment, start_new_session=True,  # Ctrl-C is for the router, which lets requests end first
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(self._options.encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        except (BrokenPipeError, ConnectionResetError):
            line = b""
        found = json.loads(line) if line.strip() else {}
        if "port" in found:
            return f"http://{LOOPBACK}:{found['port']}"
        await process.wait()
        what = str(found.get("error", f"ended with code {process.returncode}"))
        raise ResourceError(what.rstrip("."), where="replica")

    async def wait(self) -> int:
        """Wait until the process has ended; its exit code, negative for a signal."""
        assert self._process is not None
        return await self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self, seconds: float) -> None:
        """Let it end what is in progress, for some seconds at most."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), seconds)
        except (asyncio.TimeoutError, TimeoutError):
            process.kill()
            await process.wait()


def environments(count: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """The environment of each replica: one of several GPUs each, in turn."""
    gpus = visible_gpus(environment)
    found = [dict(environment) for _ in range(count)]
    if len(gpus) > 1:
        for index, one in enumerate(found):
            one["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    return found


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Names of NVIDIA GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` has them."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(n) for n in range(sum(line.startswith("GPU") for line in listed.stdout.splitlines()))]
