"""`vita serve --engine vllm --replicas 2`: each replica is a vLLM engine, and a killed one leaves no process behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.vllm.running import ENVIRONMENT
from tests.vllm.test_vita_serve import ARGUMENTS
from vita.checkpoint.files import DEFAULT

HELLO = {"messages": [{"role": "user", "content": "Hello, who are you?"}], "max_tokens": 24}


def ask(url: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=HELLO, timeout=120, trust_env=False)


@pytest.mark.slow
def test_a_killed_replica_is_replaced_and_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "vita", "serve", str(DEFAULT), "--port", "0", "--replicas", "2"]
    command += ["--engine", "vllm", "--engine-args", ARGUMENTS, "--dtype", "float32"]
    with log.open("wb") as out:
        router = subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=out, stderr=out)
    try:
        while not (found := re.search(r"API base URL: (\S+)/v1", log.read_text(errors="replace"))):
            assert router.poll() is None, log.read_text(errors="replace")[-4000:]
            time.sleep(0.2)
        first = ask(found[1])
        assert first.status_code == 200, first.text
        replica = next(
            child for child in psutil.Process(router.pid).children() if "vita.serve.replicas.child" in child.cmdline()
        )
        processes = replica.children(recursive=True)
        assert any("VLLM" in " ".join(child.cmdline()) for child in processes)
        os.kill(replica.pid, signal.SIGKILL)
        assert ask(found[1]).json()["choices"] == first.json()["choices"]
        psutil.wait_procs(processes, timeout=60)
        assert not [child for child in processes if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        router.send_signal(signal.SIGTERM)
        assert router.wait(120) == 0, log.read_text(errors="replace")[-4000:]
    finally:
        for child in psutil.Process(router.pid).children(recursive=True) if router.poll() is None else []:
            child.kill()
        router.kill()
        router.wait()
