"""Replicas on Ray, on this machine: answer, and come back after a kill."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vita.errors import RequestError, ResourceError
from vita.options import EngineOptions
from vita.serve.options import ServeOptions
from vita.serve.replicas.on_ray import ray_launchers
from vita.serve.replicas.pool import Pool


@pytest.mark.slow
def test_a_killed_replica_comes_back() -> None:
    ray = pytest.importorskip("ray", reason='SKIPPED LOUDLY: pip install "vita-engine[ray]"')
    import httpx

    async def ask(pool: Pool, index: int) -> int:
        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
            body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
            found = await client.post(f"{pool.replicas[index].url}/v1/chat/completions", json=body)
            return found.status_code

    async def run() -> None:
        launchers = ray_launchers("local", None, EngineOptions(device="cpu"), ServeOptions(port=0), 2)
        pool = Pool(launchers)
        await pool.start()
        try:
            assert [await ask(pool, 0), await ask(pool, 1)] == [200, 200]
            assert launchers[0].pid is not None
            os.kill(launchers[0].pid, signal.SIGKILL)
            end = time.monotonic() + 180
            while pool.replicas[0].generation < 2 or pool.replicas[0].url is None:
                assert time.monotonic() < end
                await asyncio.sleep(0.1)
            assert await ask(pool, 0) == 200
        finally:
            await pool.close(5.0)

    try:
        asyncio.run(run())
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_cluster_that_is_named_by_ray_address(tmp_path: Path) -> None:
    """`--ray auto` joins the cluster of `RAY_ADDRESS`: two nodes of one CPU, so a replica on each."""
    pytest.importorskip("ray", reason='SKIPPED LOUDLY: pip install "vita-engine[ray]"')
    import httpx
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    errors = tmp_path / "stderr"
    try:
        cluster.add_node(num_cpus=1)
        variables = {"RAY_ADDRESS": cluster.address, "VITA_API_KEY": "choose-one", "OMP_NUM_THREADS": "1"}
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "vita", "serve", "--replicas", "2", "--ray", "auto", "--port", "0"],
                env=os.environ | variables, stderr=stderr,
            )  # fmt: skip
        try:
            end = time.monotonic() + 240
            while "Ctrl-C stops them" not in errors.read_text():
                assert process.poll() is None and time.monotonic() < end, errors.read_text()
                time.sleep(0.1)
            found = re.search(r"API base URL: (\S+)/v1", errors.read_text())
            assert found is not None
            key = {"Authorization": "Bearer choose-one"}
            body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
            answered = set()
            for session in range(16):
                answer = httpx.post(
                    f"{found[1]}/v1/chat/completions", json=body, headers=key | {"x-session-id": str(session)},
                    trust_env=False, timeout=120,
                )  # fmt: skip
                assert answer.status_code == 200
                answered.add(answer.headers["x-vita-replica"])
            assert answered == {"0", "1"}
        finally:
            process.terminate()
            assert process.wait(60) == 0
    finally:
        cluster.shutdown()


def test_without_ray_or_a_key_there_is_a_sentence() -> None:
    from importlib.util import find_spec

    if find_spec("ray") is None:
        with pytest.raises(ResourceError, match=r"needs the package ray; run pip install .vita-engine\[ray\]"):
            ray_launchers("local", None, EngineOptions(), ServeOptions(), 2)
        return
    with pytest.raises(RequestError, match="an API key is needed"):
        ray_launchers("auto", None, EngineOptions(), ServeOptions(), 2)
