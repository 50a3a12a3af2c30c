"""`vita serve --replicas`: a stop in order, a router that is killed, options that cannot be used."""

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

from tests.cli.commands import assert_sentence
from tests.cli.commands import run as vita_command

ROOT = Path(__file__).parents[3]


def start(errors: Path) -> tuple[subprocess.Popen[bytes], str, list[psutil.Process]]:
    """A router with two replicas: its process, its URL, and the replicas' processes."""
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "vita", "serve", "--replicas", "2", "--port", "0", "--log-content"], stderr=stderr,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    end = time.monotonic() + 180
    while "Ctrl-C stops them" not in errors.read_text():
        assert process.poll() is None and time.monotonic() < end, errors.read_text()
        time.sleep(0.05)
    url = re.search(r"API base URL: (\S+)/v1", errors.read_text())
    assert url is not None
    return process, url[1], psutil.Process(process.pid).children()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_replicas_end_with_their_router(number: signal.Signals, tmp_path: Path) -> None:
    """Also if it is killed: they see that their stdin is closed."""
    process, url, children = start(tmp_path / "stderr")
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    try:
        assert len(children) == 2
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False, timeout=120)
        assert answer.status_code == 200
    finally:
        process.send_signal(number)
    assert process.wait(60) == (0 if number == signal.SIGTERM else -number)
    _, left = psutil.wait_procs(children, timeout=60)
    assert not left
    logged = (tmp_path / "stderr").read_text()
    assert "Traceback" not in logged and "asked: Hello" in logged
    assert "POST /v1/chat/completions 200" in logged and "GET /health" not in logged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--replicas", "0"), "--replicas: must be 1 to 64, not 0"),
        (("--replicas", "65"), "--replicas: must be 1 to 64, not 65"),
        (("none/such", "--replicas", "2", "--offline"), "none/such"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    assert_sentence(vita_command("serve", "--port", "0", *arguments), said)
