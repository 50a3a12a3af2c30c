"""The `vita` commands of docs/scaling.md run, with the embedded model and two processes in place of many.

Those of vLLM are run by tests/vllm/test_nodes.py, test_vita_serve.py and test_vita_replicas.py, and Ray's by
tests/serve/replicas/test_ray.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import typer
from tests.docs.blocks import ROOT, blocks

from vita.cli.app import app

BLOCKS = [block.text.replace("\\\n", "") for block in blocks(ROOT / "docs" / "scaling.md") if not block.language]
SERVE = sorted({line for text in BLOCKS for line in text.splitlines() if "vita serve" in line})
(BATCH,) = (text for text in BLOCKS if "vita batch" in text)


def shell(folder: Path) -> dict[str, str]:
    """The environment of a user who has `vita` on PATH."""
    program = folder / "bin" / "vita"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vita "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    variables = {"PATH": f"{program.parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return os.environ | variables


def here(command: str) -> str:
    """The command for the embedded model and two processes."""
    command = re.sub(r"(--model )?VITA-MLLM/VITA-1\.5", "", command)
    return re.sub(r"--replicas \d+", "--replicas 2", command)


@pytest.mark.parametrize("line", SERVE)
def test_its_flags_exist(line: str) -> None:
    words = shlex.split(line, comments=True)
    command = typer.main.get_group(app).commands["serve"]
    command.make_context("serve", words[words.index("serve") + 1 :])  # raises for a flag that does not exist


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in SERVE if "--ray" not in line and "vllm" not in line])
def test_it_serves(line: str, tmp_path: Path) -> None:
    errors = tmp_path / "stderr"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            ["bash", "-c", f"{here(line)} --port 0"], env=shell(tmp_path), stderr=stderr, start_new_session=True
        )
    try:
        end = time.monotonic() + 180
        while "Ctrl-C stops" not in errors.read_text():
            assert process.poll() is None and time.monotonic() < end, errors.read_text()
            time.sleep(0.1)
        port = re.search(r"API base URL: \S+:(\d+)/v1", errors.read_text())
        assert port is not None
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        key = {"Authorization": "Bearer choose-one"}
        url = f"http://127.0.0.1:{port[1]}/v1/chat/completions"
        assert httpx.post(url, json=body, headers=key, trust_env=False, timeout=120).status_code == 200
        if "VITA_API_KEY" in line:
            assert httpx.post(url, json=body, trust_env=False, timeout=120).status_code == 401
        if "--allow-host" in line:
            named = key | {"Host": "vita.example"}
            assert httpx.post(url, json=body, headers=named, trust_env=False, timeout=120).status_code == 200
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.mark.slow
def test_a_batch_on_two_of_its_gpus(tmp_path: Path) -> None:
    """Two processes with two parts of the same input: each request is answered once."""
    requests = [
        {"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions",
         "body": {"messages": [{"role": "user", "content": f"{n}: who are you?"}], "max_tokens": 4}}
        for n in range(20)
    ]  # fmt: skip
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(one) + "\n" for one in requests), encoding="utf-8")
    assert "0 1 2 3 4 5 6 7" in BATCH and "/800" in BATCH
    script = here(BATCH).replace("0 1 2 3 4 5 6 7", "0 1").replace("/800", "/2")
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=shell(tmp_path) | {"NODE": "0"}, capture_output=True, text=True,
        timeout=170, check=False,
    )  # fmt: skip
    parts = [(tmp_path / f"answers-{part}.jsonl").read_text(encoding="utf-8").splitlines() for part in (1, 2)]
    found = [json.loads(line) for part in parts for line in part]
    assert sorted(one["custom_id"] for one in found) == sorted(one["custom_id"] for one in requests), done.stderr
    assert all(one["error"] is None for one in found) and all(parts)
