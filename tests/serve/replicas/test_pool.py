"""The pool with replicas of the test: started again, ended when they hang, reported when they cannot start."""

from __future__ import annotations

import asyncio

import pytest

from vita.errors import ResourceError
from vita.serve.errors import ApiError
from vita.serve.replicas.pool import Pool


class Fake:
    """A replica whose server takes connections and never answers.

    Args:
        starts: that succeed; every later one fails.
    """

    def __init__(self, starts: int = 99) -> None:
        self.left, self.killed = starts, 0
        self._ended = asyncio.Event()

    async def start(self) -> str:
        if not self.left:
            raise ResourceError("no memory is left", where="replica")
        self.left -= 1
        self._ended = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(hang, "127.0.0.1", 0)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def wait(self) -> int:
        await self._ended.wait()
        return -9

    def kill(self) -> None:
        self.killed += 1
        self._ended.set()

    async def stop(self, seconds: float) -> None:
        self._ended.set()


async def until(pool: Pool, generation: int) -> None:
    while pool.replicas[0].generation < generation or pool.replicas[0].url is None:
        await asyncio.sleep(0.01)


def test_a_replica_that_hangs_is_ended_and_started_again() -> None:
    async def run() -> int:
        fake = Fake()
        pool = Pool([fake], check_seconds=0.01, hang_seconds=0.1)
        await pool.start()
        await asyncio.wait_for(until(pool, 2), 60)
        await pool.close(0.0)
        return fake.killed

    assert asyncio.run(run()) >= 1


def test_a_replica_that_cannot_start_ends_the_start() -> None:
    async def run() -> None:
        await Pool([Fake(), Fake(starts=0)]).start()

    with pytest.raises(ResourceError, match="no memory is left"):
        asyncio.run(run())


def test_a_request_waits_for_a_replica_that_is_started_again() -> None:
    async def run() -> tuple[int, int]:
        fake = Fake()
        pool = Pool([fake])
        await pool.start()
        first = (await pool.choose(b"key", {})).generation
        fake.kill()
        second = await asyncio.wait_for(pool.choose(b"key", {(0, 1): float("inf")}), 60) if await gone(pool) else None
        await pool.close(0.0)
        assert second is not None
        return first, second.generation

    async def gone(pool: Pool) -> bool:
        while pool.replicas[0].url is not None and pool.replicas[0].generation == 1:
            await asyncio.sleep(0.01)
        return True

    assert asyncio.run(run()) == (1, 2)


def test_a_request_that_all_have_refused_does_not_wait() -> None:
    async def run() -> None:
        pool = Pool([Fake(), Fake()])
        await pool.start()
        try:
            assert (await pool.choose(None, {(0, 1): float("inf")})).index == 1
            await asyncio.wait_for(pool.choose(None, {(0, 1): float("inf"), (1, 1): float("inf")}), 10)
        finally:
            await pool.close(0.0)

    with pytest.raises(ApiError, match="No replica is available"):
        asyncio.run(run())
