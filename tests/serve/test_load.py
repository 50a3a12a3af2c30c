"""Many requests at once and one after another: the same ids as alone, and nothing that grows."""

from __future__ import annotations

import gc
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import vita
from tests.serve.running import Running, running
from tests.serve.test_chat import wait_for
from vita.serve.options import Limits, ServeOptions

CHAT = "/v1/chat/completions"
QUESTIONS = (
    "What can you do?", "Hello", "Who are you?", "What is two plus three?", "What colors do you know?", "Thank you",
    "What do you see?", "Tell me about shapes.",
)  # fmt: skip


def stream(served: Running, question: str, **fields: Any) -> str:
    body = {"messages": [{"role": "user", "content": question}], "stream": True, **fields}
    said = ""
    with httpx.stream("POST", served.url + CHAT, json=body, timeout=120, trust_env=False) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                said += "".join(c["delta"].get("content", "") for c in json.loads(line[6:])["choices"])
    return said


def test_eight_streams_say_what_each_says_alone(served: Running, embedded: vita.Vita) -> None:
    alone = [embedded.ask(question).text for question in QUESTIONS]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda question: stream(served, question), QUESTIONS)) == alone


def test_sixty_four_at_once_all_end(embedded: vita.Vita) -> None:
    with running(embedded, ServeOptions(port=0, limits=Limits(requests=48))) as served, ThreadPoolExecutor(64) as pool:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}

        def post(_: int) -> int:
            return httpx.post(served.url + CHAT, json=body, timeout=120, trust_env=False).status_code

        assert set(pool.map(post, range(64))) <= {200, 429}


@pytest.mark.slow
def test_nothing_grows(served: Running, logo: str) -> None:
    """600 requests of all kinds, some of them abandoned: no memory, thread, file or row is left behind."""
    process = psutil.Process()
    parts = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": logo}}]
    bodies: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4},
        {"messages": [{"role": "user", "content": parts}], "max_tokens": 2},
        {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "max_tokens": 4},
        {"messages": []},
    ]

    def once(count: int) -> None:
        for n in range(count):
            served.client.post(CHAT, json=bodies[n % len(bodies)])
            if n % 10 == 0:
                endless = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "max_tokens": 500}
                with served.client.stream("POST", CHAT, json=endless) as answer:
                    next(answer.iter_lines())

    def used() -> tuple[int, int, int]:
        gc.collect()
        idle = served.server.model.stats().kv_idle  # prefixes that stay until the KV budget is full
        return process.memory_info().rss - idle, threading.active_count(), process.num_fds()

    once(200)
    before = used()
    once(600)
    after = used()
    assert after[0] < 1.02 * before[0] and after[1] <= before[1] + 1 and after[2] <= before[2] + 2
    wait_for(lambda: not (served.server.active or served.server.buffered or served.server.model.stats().running))


@pytest.mark.skipif(not Path("/proc").exists(), reason="SKIPPED LOUDLY: needs /proc")
def test_a_stopped_server_leaves_no_thread_and_no_process(embedded: vita.Vita) -> None:
    with running(embedded):
        pass
    before = threading.active_count(), len(psutil.Process().children())
    for _ in range(3):
        with running(embedded) as served:
            assert served.client.get("/health").status_code == 200
    assert (threading.active_count(), len(psutil.Process().children())) == before
