"""`vllm serve` as a context: one process, or one for each of several nodes, all of them on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx

from tests.vllm.running import ENVIRONMENT, SHARED_MEMORY

START = 600  # seconds; 30 on a quiet machine, 90 for eight processes
LOOPBACK = "127.0.0.1"
# What a CPU of a small machine needs; the rest is as a user would type it.
SMALL = (
    "--served-model-name", "vita", "--dtype", "float32", "--enforce-eager",
    "--kv-cache-memory-bytes", str(64 << 20), "--max-num-seqs", "8", "--reasoning-parser", "vita",
)  # fmt: skip


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return int(free.getsockname()[1])


@contextmanager
def serving(model: Path, logs: Path, *nodes: Sequence[str]) -> Iterator[str]:
    """The address of a server.

    Args:
        model: folder of the checkpoint.
        logs: folder for the output of each node.
        nodes: options of `vllm serve` on each node; the first one answers HTTP.
    """
    port = free_port()
    address = f"http://{LOOPBACK}:{port}"
    before = set(SHARED_MEMORY.glob("vllm_dist*"))
    files = [logs / f"node{number}.log" for number in range(len(nodes))]
    with ExitStack() as stack:
        stack.callback(remove_shared_memory, before)
        started = []
        for options, file in zip(nodes, files, strict=True):
            # Otherwise vLLM starts an HTTP server for each data parallel rank.
            first = ("--host", LOOPBACK, "--port", str(port), "--api-server-count", "1") if not started else ()
            started.append(stack.enter_context(node([str(model), *SMALL, *first, *options], file)))
        wait_for_health(address, started, files)
        yield address
        for file in files:
            assert "Traceback" not in file.read_text(errors="replace"), "a client's mistake is no fault of the server"


@contextmanager
def node(arguments: Sequence[str], file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One process of `vllm serve`, which ends with the context, and those that it started with it."""
    variables = os.environ | ENVIRONMENT | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_HOST_IP": LOOPBACK}
    with file.open("wb") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("vllm")), "serve", *arguments],
            env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        kill_session(process)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process that leads a session, and wait for it."""
    with suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def wait_for_health(address: str, nodes: Sequence[subprocess.Popen[bytes]], files: Sequence[Path]) -> None:
    """Until the server answers."""
    end = time.monotonic() + START
    while True:
        for process, file in zip(nodes, files, strict=True):
            assert process.poll() is None, log(file)
        assert time.monotonic() < end, "\n".join(map(log, files))
        try:
            if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)


def log(file: Path) -> str:
    """The end of what a node printed."""
    return file.read_text(errors="replace")[-6000:]


def remove_shared_memory(before: set[Path]) -> None:
    """Remove what vLLM's ranks leave behind."""
    for left in set(SHARED_MEMORY.glob("vllm_dist*")) - before:
        left.unlink(missing_ok=True)
