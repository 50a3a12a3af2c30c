"""A served model for benchmarks: the process, its clients, and rows of figures."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks.alternate import interval
from websockets.asyncio.client import connect

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]


class Server:
    """A worker, and how to ask it."""

    def __init__(self, process: subprocess.Popen[str], port: int, stop_ids: list[int]) -> None:
        self._process, self.port = process, port
        self._bias = {str(token): -100 for token in stop_ids}

    async def alone(self, text: str, tokens: int) -> tuple[float, float]:
        """Seconds to the first text and to the end, by the engine itself."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([text, tokens]) + "\n")
        self._process.stdin.flush()
        first, whole = json.loads(await asyncio.to_thread(self._process.stdout.readline))
        return first, whole

    async def ask(self, text: str, tokens: int) -> tuple[float, float]:
        """Seconds to the first text and to the end of a stream, with a connection that is open already."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        messages = [{"role": "user", "content": text}]
        body = json.dumps({"messages": messages, "stream": True, "max_tokens": tokens, "logit_bias": self._bias})
        began, first, seen = time.perf_counter(), 0.0, b""
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        while b"[DONE]" not in seen[-40:]:
            block = await reader.read(1 << 16)
            if not block:
                raise RuntimeError(f"the answer broke off: {seen[-300:]!r}")
            seen += block
            if not first and b'"content":"' in seen.replace(b'"content":""', b""):
                first = time.perf_counter() - began
        whole = time.perf_counter() - began
        writer.close()
        return first, whole

    def socket(self) -> connect:
        """A realtime connection."""
        return connect(f"ws://127.0.0.1:{self.port}/v1/realtime", proxy=None, max_size=None, compression=None)


@asynccontextmanager
async def serving(**options: object) -> AsyncIterator[Server]:
    """A server until the end of the block; options as in `serving_worker.py`."""
    command = [sys.executable, "-m", "benchmarks.serving_worker", json.dumps(options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            server = Server(process, **json.loads(await asyncio.to_thread(process.stdout.readline)))
            for n in range(3):
                await ask_when_open(server, f"Warm up {n}")
            yield server
        finally:
            process.kill()


async def ask_when_open(server: Server, text: str) -> None:
    for _ in range(200):
        try:
            await server.ask(text, 8)
            return
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
    raise RuntimeError("the server does not listen")


async def together(count: int, one: Callable[[int], Coroutine[Any, Any, float]]) -> list[float]:
    """The results of so many tasks that begin at the same time."""
    return await asyncio.gather(*(one(n) for n in range(count)))


def milliseconds(name: str, seconds: list[float], **more: object) -> Row:
    low, middle, high = (round(float(p) * 1000, 1) for p in np.percentile(seconds, (5, 50, 95)))
    return {"measure": name, **more, "count": len(seconds), "p5_ms": low, "p50_ms": middle, "p95_ms": high}


def ratio(name: str, values: list[float], **more: object) -> Row:
    low, high = interval(values)
    return {
        "measure": name, **more, "count": len(values), "ratio": round(median(values), 3),
        "interval": [round(low, 3), round(high, 3)],
    }  # fmt: skip


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share."""
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    reach = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)
