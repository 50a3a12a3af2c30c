"""`vita serve` as a user meets it: what it prints, how it stops, what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.cli.commands import ENV, MINI, assert_sentence, run
from tests.forks import Forked, Forks

pytest.importorskip("fastapi", reason='SKIPPED LOUDLY: pip install -e ".[serve]" is missing')


@contextmanager
def serving(forks: Forks, *arguments: str, **variables: str) -> Iterator[tuple[Forked, str, list[str]]]:
    """A server in a process of its own: the process, its URL, and the lines it printed."""
    command = [sys.executable, "-m", "vita", "serve", MINI, "--port", "0", *arguments]
    process = forks.popen(command, stderr=subprocess.PIPE, text=True, env=ENV | variables, start_new_session=True)
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        found = re.search(r"API base URL: (\S+)/v1", "".join(lines))
        assert found, lines
        yield process, found[1], lines
    finally:
        process.kill()
        process.wait()


def get(url: str, key: str | None = None) -> tuple[int, dict[str, object]]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + 30
    while True:
        try:
            with opener.open(urllib.request.Request(url, headers=headers), timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:  # the lines are printed a moment before the port answers
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_answers_and_stops_when_told(forks: Forks, how: signal.Signals) -> None:
    with serving(forks) as (process, url, lines):
        text = "".join(lines)
        assert "million parameters" in text and "KV caches" in text and "needs a key" not in text
        assert get(f"{url}/health") == (200, {"status": "ok"})
        os.killpg(process.pid, how)  # as a terminal does
        assert process.wait(30) == 0
        assert process.stderr is not None and "Traceback" not in process.stderr.read()


def test_a_second_signal_ends_answers_without_their_stacks(forks: Forks) -> None:
    with serving(forks, "--voice", "espeak") as (process, url, _):
        get(f"{url}/health")
        body = json.dumps({"model": "vita", "input": "One more sentence. " * 200, "response_format": "wav"}).encode()
        request = urllib.request.Request(f"{url}/v1/audio/speech", body, {"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            answer.read(1000)  # and no more: the server waits for this client
            os.killpg(process.pid, signal.SIGINT)
            while get(f"{url}/health")[0] != 503:  # it waits for the answer
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(30) == 0
        assert process.stderr is not None
        said = process.stderr.read()
        assert "Traceback" not in said and "Exception" not in said and "cut off: 1" in said, said


@pytest.mark.slow
def test_a_key_of_the_environment_is_asked_for(forks: Forks) -> None:
    with serving(forks, "--host", "0.0.0.0", VITA_API_KEY="key-of-the-cli-test") as (_, url, lines):
        assert "needs a key" in "".join(lines) and "key-of-the-cli-test" not in "".join(lines)
        assert get(f"{url}/v1/models")[0] == 401
        assert get(f"{url}/v1/models", "key-of-the-cli-test")[0] == 200


@pytest.mark.slow
def test_kill_9_leaves_no_process_behind(forks: Forks) -> None:
    with serving(forks) as (process, url, _):
        assert get(f"{url}/health")[0] == 200
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
        )
        children = [int(pid) for pid in listed.stdout.split()]
        assert children
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        until = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            assert time.monotonic() < until, "a decode process outlived the server"
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), ("--host", "VITA_API_KEY", "--api-key-file")),
        (("--port", "70000"), ("--port", "0 to 65535")), (("--api-key-file", "missing"), ("missing", "cannot be read")),
        (("--allow-origin", "chat"), ("--allow-origin", "is not an origin")),
        (("--allow-media-domain", "http://x/"), ("--allow-media-domain", "host names")),
        (("--ssl-certfile", "missing"), ("missing", "no such file")),
        (("--max-tokens", "0"), ("--max-tokens", "1 or more")),
        (("--engine", "other"), ("--engine", "no engine 'other'", "vita or vllm")),
        (("--engine-args", "{}"), ("--engine-args", "--engine vllm")),
        (("--port", "0", "--voice", "nobody"), ("--voice", "no voice 'nobody'")),
        (("no/such/folder", "--offline"), ("no/such/folder",)),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_one_sentence(arguments: tuple[str, ...], said: tuple[str, ...]) -> None:
    model = () if arguments[0].startswith("no/") else (MINI,)
    assert_sentence(run("serve", *model, *arguments), *said)


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert_sentence(run("serve", MINI, "--port", port), "--port", "cannot be used")


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vita.cli.serve.find_spec", lambda name: None if name == "uvicorn" else object())
    assert_sentence(run("serve", MINI), "uvicorn", 'pip install "vita-engine[serve]"')


VLLM = (
    (("--quantize", "int8"), ("--quantize", "not an option of the engine vllm", "--engine-args")),
    (("--kv-cache", "int8"), ("--kv-cache", "not an option of the engine vllm")),
    (("--memory", "4GB"), ("--memory", "gpu_memory_utilization")),
    (("--device", "cpu"), ("--device", "vLLM chooses the device")),
    (("--voice", "vita"), ("--voice", "checkpoint's own voice")),
    (("--engine-args", "tensor_parallel_size=2"), ("--engine-args", "is not JSON")),
    (("--engine-args", "[2]"), ("--engine-args", "must be a JSON object")),
)


@pytest.mark.parametrize(("arguments", "said"), VLLM)
def test_what_vllm_cannot_honour_is_refused_by_name(arguments: tuple[str, ...], said: tuple[str, ...]) -> None:
    assert_sentence(run("serve", MINI, "--engine", "vllm", *arguments), *said)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
@pytest.mark.parametrize("more", [(), ("--replicas", "2")])
def test_without_vllm_it_says_what_to_install(more: tuple[str, ...]) -> None:
    said = ("the engine vllm needs the package vllm", 'pip install "vita-engine[vllm]"')
    assert_sentence(run("serve", MINI, "--port", "0", "--engine", "vllm", *more), *said)


def test_help_needs_none_of_its_packages() -> None:
    code = (
        "import sys; sys.argv=['vita','serve','--help']\n"
        "from vita.cli import run\n"
        "try: run()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch','fastapi','starlette','uvicorn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENV, timeout=60, check=False)
    assert done.stdout.decode().strip().endswith("[]")
