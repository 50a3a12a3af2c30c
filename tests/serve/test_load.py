"""Many requests at once and one after another: the same ids as alone, and nothing that grows."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import vita
from tests.serve.realtime.client import connected, question
from tests.serve.running import Running, running
from tests.serve.test_chat import wait_for
from vita.serve.answers import shown_tokens
from vita.serve.options import Limits, ServeOptions

CHAT = "/v1/chat/completions"
QUESTIONS = (
    "What can you do?", "Hello", "Who are you?", "What is two plus three?", "What colors do you know?", "Thank you",
    "What do you see?", "Tell me about shapes.",
)  # fmt: skip


def stream(served: Running, question: str) -> tuple[str, list[str]]:
    """The text of an answer and its tokens."""
    body = {"messages": [{"role": "user", "content": question}], "stream": True, "logprobs": True}
    said, tokens = "", []
    with httpx.stream("POST", served.url + CHAT, json=body, timeout=120, trust_env=False) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            for choice in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
                said += choice["delta"].get("content", "")
                tokens += [token["token"] for token in (choice["logprobs"] or {}).get("content", ())]
    return said, tokens


def test_eight_streams_have_the_tokens_that_each_has_alone(served: Running, embedded: vita.Vita) -> None:
    alone = []
    for text in QUESTIONS:
        result = embedded.ask(text, params=vita.SamplingParams(max_tokens=1024, logprobs=1))
        shown = shown_tokens(result.logprobs, embedded.engine.model)
        alone.append((result.text, [token.text for token in shown]))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: stream(served, text), QUESTIONS)) == alone
    assert all(tokens for _, tokens in alone)


@pytest.mark.slow
def test_sixty_four_at_once_all_end(embedded: vita.Vita) -> None:
    with running(embedded, ServeOptions(port=0, limits=Limits(requests=48))) as served, ThreadPoolExecutor(64) as pool:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}

        def post(_: int) -> httpx.Response:
            return httpx.post(served.url + CHAT, json=body, timeout=120, trust_env=False)

        answers = list(pool.map(post, range(64)))
        assert {answer.status_code for answer in answers} <= {200, 429}
        finished = [answer.json()["choices"][0]["message"]["content"] for answer in answers if answer.is_success]
        assert len(finished) >= 48 and len(set(finished)) == 1
        assert all("retry-after" in answer.headers for answer in answers if not answer.is_success)


class Held:
    """What a process holds: memory in bytes, threads, files, tasks of its server."""

    def __init__(self, served: Running) -> None:
        process = psutil.Process()
        gc.collect()
        idle = served.server.model.stats().kv_idle  # prefixes that stay until the KV budget is full
        self.memory = process.memory_info().rss - idle
        self.threads, self.files = threading.active_count(), process.num_fds()
        self.tasks = asyncio.run_coroutine_threadsafe(count_tasks(), served.loop).result(30)


async def count_tasks() -> int:
    return len(asyncio.all_tasks())


def request_all_kinds(served: Running, logo: str, count: int) -> None:
    """Requests of all kinds; every twentieth is abandoned in mid-answer."""
    parts = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": logo}}]
    hello: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    for n in range(count):
        if n % 20 == 0:
            endless = {**hello, "stream": True, "max_tokens": 500}
            with served.client.stream("POST", CHAT, json=endless) as answer:
                next(answer.iter_lines())
        elif n % 20 == 1:
            body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 2}
            assert served.client.post(CHAT, json=body).status_code == 200
        elif n % 20 == 2:
            assert served.client.post(CHAT, json={"messages": []}).status_code == 400
        else:
            assert served.client.post(CHAT, json={**hello, "stream": n % 2 == 0}).status_code == 200


def talk_all_kinds(served: Running, count: int) -> None:
    """Realtime sessions: typed and spoken questions; every fifth vanishes in mid-answer."""
    speech = base64.b64encode(question().astype("<i2").tobytes()).decode()
    for n in range(count):
        with connected(served) as client:
            spoken = n % 4 == 0
            client.update(
                output_modalities=["text"], max_output_tokens=500 if n % 5 == 0 else 1,
                audio={"input": {"turn_detection": None}},
            )  # fmt: skip
            if spoken:
                client.send("input_audio_buffer.append", audio=speech)
                client.send("input_audio_buffer.commit")
            else:
                client.create_text("Hello")
            client.send("response.create")
            client.until("response.created" if n % 5 == 0 else "response.done")


@pytest.mark.slow
def test_nothing_grows(served: Running, logo: str) -> None:
    """2,000 requests and 200 realtime sessions leave no memory, thread, file, task or row behind."""
    request_all_kinds(served, logo, 300)
    talk_all_kinds(served, 30)
    wait_until_idle(served)
    before = Held(served)
    request_all_kinds(served, logo, 2000)
    talk_all_kinds(served, 200)
    wait_until_idle(served)
    after = Held(served)
    print(f"memory {before.memory / 1e6:.1f} MB, then {after.memory / 1e6:.1f} MB")
    assert after.memory < 1.02 * before.memory
    assert after.threads <= before.threads and after.files <= before.files and after.tasks <= before.tasks


def wait_until_idle(served: Running) -> None:
    def idle() -> bool:
        stats = served.server.model.stats()
        return not (served.server.active or served.server.bodies.used or stats.running or stats.waiting)

    wait_for(idle)
    time.sleep(1)  # closed connections leave the event loop


@pytest.mark.skipif(not Path("/proc").exists(), reason="SKIPPED LOUDLY: needs /proc")
@pytest.mark.slow
def test_a_server_that_is_killed_leaves_nothing_broken(tmp_path: Path) -> None:
    """kill -9 in mid-answer: its clients see that it broke off, its processes end, and another one takes its place."""
    port, url = 0, ""
    bodies = {"messages": [{"role": "user", "content": "What can you do?"}]}
    for killed in (True, False):
        command = [sys.executable, "-m", "vita", "serve", "--port", str(port), "--device", "cpu"]
        env = {**os.environ, "TMPDIR": str(tmp_path)}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
            assert process.stderr is not None
            found = next(line for line in process.stderr if "page: " in line)
            url = found.split("page: ")[1].strip().rstrip("/")
            port = int(url.rsplit(":", 1)[1])
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
                wait_for(lambda: is_healthy(client))
                text = client.post(CHAT, json=bodies).json()["choices"][0]["message"]["content"]
                assert "can" in text
                children = psutil.Process(process.pid).children(recursive=True)
                assert children
                if killed:
                    ends = {**bodies, "stream": True, "max_tokens": 3000, "temperature": 2.0, "seed": 1}
                    with pytest.raises(httpx.HTTPError), client.stream("POST", CHAT, json=ends) as answer:
                        lines = answer.iter_lines()
                        next(lines)
                        process.kill()
                        for _ in lines:
                            pass
                    first = text
                else:
                    assert text == first
                    process.terminate()
            assert process.wait(60) == (-9 if killed else 0)
        psutil.wait_procs(children, timeout=30)
        assert not [child for child in children if child.is_running()]
    assert not list(tmp_path.iterdir()), "files are left behind"


def is_healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="SKIPPED LOUDLY: needs /proc")
@pytest.mark.slow
def test_a_stopped_server_leaves_no_thread_and_no_process(embedded: vita.Vita) -> None:
    with running(embedded):
        pass
    before = threading.active_count(), len(psutil.Process().children())
    for _ in range(3):
        with running(embedded) as served:
            assert served.client.get("/health").status_code == 200
    assert (threading.active_count(), len(psutil.Process().children())) == before
