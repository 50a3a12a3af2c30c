"""Preemptive generation: an answer from the first pause of a turn on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vita
from tests.serve.realtime.client import Client, connected, question, silence
from tests.serve.running import Running, running
from vita.errors import ResourceError
from vita.events import Done, Started
from vita.serve.options import ServeOptions
from vita.serve.realtime.dialogue import Job
from vita.serve.realtime.early_answer import EarlyAnswer, is_same
from vita.serve.realtime.session import Catalog, Session
from vita.sources import Array
from vita.speech.turns import Noise, TurnComplete
from vita.types import Audio, Message, Text

PAUSE = silence(0.35)  # longer than 256 ms, shorter than the silence that ends a turn
TEXT = {"output_modalities": ["text"]}


@pytest.fixture(scope="module")
def served(embedded: vita.Vita) -> Iterator[Running]:
    with running(embedded, ServeOptions(port=0)) as server:
        yield server


@pytest.fixture
def client(served: Running) -> Iterator[Client]:
    with connected(served) as one:
        one.update(**TEXT)
        yield one


def eventually(check: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not check():
        assert time.monotonic() < until
        time.sleep(0.01)


def with_noise(seed: int) -> np.ndarray[Any, Any]:
    """The question without silence around it, new to every cache."""
    samples = question()
    loud = np.flatnonzero(np.abs(samples) > 600)
    speech = samples[loud[0] : loud[-1] + 1]
    return speech + np.random.default_rng(seed).integers(-8, 8, len(speech)).astype(np.int16)


def pause(client: Client, model: vita.Vita, seed: int) -> vita.Stats:
    """Speak and pause until the early answer is submitted; the counts from before."""
    before = model.stats()
    client.append(np.concatenate([with_noise(seed), PAUSE]))
    eventually(lambda: model.stats().submitted == before.submitted + 1)
    return before


def test_an_answer_is_generated_while_the_silence_lasts(client: Client, embedded: vita.Vita) -> None:
    before = embedded.stats()
    client.append(np.concatenate([with_noise(1), PAUSE]))
    eventually(lambda: embedded.stats().finished == before.finished + 1)
    client.update(**TEXT)  # the answer to this has everything before it
    kinds = client.wire.kinds()
    assert not [kind for kind in kinds if kind.startswith("response.") or kind.endswith("speech_stopped")]
    client.append(silence(0.5))
    done = client.until("response.done")["response"]
    assert done["status"] == "completed" and done["output"][0]["content"][0]["text"]
    assert embedded.stats().submitted == before.submitted + 1, "that answer is the answer"


def test_speech_that_goes_on_is_answered_whole(client: Client, embedded: vita.Vita) -> None:
    before = pause(client, embedded, 2)
    client.append(np.concatenate([with_noise(3), silence(1)]))
    done = client.until("response.done")["response"]
    assert embedded.stats().submitted == before.submitted + 2
    assert client.wire.kinds().count("response.created") == 1
    heard = done["usage"]["input_token_details"]["audio_tokens"]
    assert heard > 12.5 * (2 * len(with_noise(2)) + len(PAUSE)) / 24_000, "both parts"
    assert client.wire.kinds().count("input_audio_buffer.speech_started") == 1


def test_settings_that_change_in_the_pause_apply(client: Client, embedded: vita.Vita) -> None:
    before = pause(client, embedded, 4)
    client.update(max_output_tokens=2)
    client.append(silence(0.5))
    assert client.until("response.done")["response"]["status"] == "incomplete"
    assert embedded.stats().submitted == before.submitted + 2


def test_a_client_that_asks_itself_finds_the_prompt_in_the_cache(client: Client, embedded: vita.Vita) -> None:
    detection = {"type": "server_vad", "create_response": False}
    client.update(audio={"input": {"turn_detection": detection}})
    client.append(np.concatenate([with_noise(5), silence(1)]))
    client.until("input_audio_buffer.committed")
    client.send("response.create")
    usage = client.until("response.done")["response"]["usage"]
    assert usage["input_token_details"]["cached_tokens"] >= usage["input_tokens"] - 1


def test_a_turn_that_is_cleared_in_the_pause_is_cancelled(client: Client, embedded: vita.Vita) -> None:
    before = pause(client, embedded, 7)
    client.send("input_audio_buffer.clear")
    client.until("input_audio_buffer.cleared")
    client.append(np.concatenate([silence(0.5), with_noise(8), silence(1)]))
    assert client.until("response.done")["response"]["status"] == "completed"
    assert embedded.stats().submitted == before.submitted + 2, "the next turn is answered ahead, too"


def test_a_client_that_commits_in_the_pause_gets_the_early_answer(client: Client, embedded: vita.Vita) -> None:
    before = pause(client, embedded, 9)
    client.send("input_audio_buffer.commit")
    client.send("response.create")
    assert client.until("response.done")["response"]["status"] == "completed"
    assert embedded.stats().submitted == before.submitted + 1


def test_a_client_that_leaves_in_the_pause_leaves_nothing(served: Running, embedded: vita.Vita) -> None:
    with connected(served) as one:
        one.update(**TEXT)
        one.append(np.concatenate([with_noise(6), PAUSE]))
        one.until("input_audio_buffer.speech_started")
    eventually(lambda: not (embedded.stats().running or embedded.stats().working or served.server.active))


class Request:
    """A handle whose first event is given."""

    def __init__(self, first: Started | Done | Exception | None = None) -> None:
        self.cancelled, self._first = False, first

    def cancel(self) -> None:
        self.cancelled = True

    async def started(self) -> Any:
        if isinstance(self._first, Exception):
            raise self._first
        return self._first


def job(**session: Any) -> Job:
    settings = Session(id="s", catalog=Catalog("vita", "espeak"), expires_at=0, **session)
    samples = np.arange(100, dtype=np.int16)
    messages = (Message("system", (Text("Be brief."),)), Message("user", (Audio(Array(samples, "speech"), 16_000),)))
    return Job(1, messages, settings)


COMPLETE, NOISE = TurnComplete(1, 2), Noise(1)


def early(request: Request, told: list[object], *, wanted: bool = True) -> EarlyAnswer:
    async def submit(given: Job) -> Any:
        return request

    return EarlyAnswer(job(), submit, told.append, wanted=wanted)


@pytest.mark.parametrize("state", ["spoken", "typed", "noise", None])
@pytest.mark.parametrize("asked_first", [True, False])
def test_the_listener_is_told_once(state: Any, asked_first: bool) -> None:
    told: list[object] = []

    async def run() -> None:
        answer = early(Request(Started(state)), told)
        if asked_first:
            answer.ask(COMPLETE, NOISE)
        assert told == []
        await answer.run()
        answer.ask(COMPLETE, NOISE)

    asyncio.run(run())
    assert told[0] == (NOISE if state == "noise" else COMPLETE) and len(told) == (1 + asked_first)


def test_nobody_is_told_of_a_turn_that_has_ended() -> None:
    told: list[object] = []

    async def run() -> None:
        answer = early(Request(Started("spoken")), told)
        answer.ask(COMPLETE, NOISE)
        answer.end_turn()
        await answer.run()

    asyncio.run(run())
    assert told == []


@pytest.mark.parametrize(
    ("first", "wanted", "asked", "taken"),
    [
        (Started("spoken"), True, job(), True),
        (Started("spoken"), True, job(voice="espeak"), False),
        (Started("spoken"), False, job(), False),
        (ResourceError("full"), True, job(), False),
        (RuntimeError("broken"), True, job(), False),  # logged; the session goes on
        (SimpleNamespace(), True, job(), False),  # `Done`: it was cancelled before it began
    ],
)
def test_only_an_answer_to_the_same_is_taken(first: Any, wanted: bool, asked: Job, taken: bool) -> None:
    async def run() -> None:
        request = Request(first)
        answer = early(request, [], wanted=wanted)
        await answer.run()
        assert (await answer.take(asked) is request) == taken and request.cancelled == (not taken)

    asyncio.run(run())


def test_an_answer_that_is_dropped_before_it_was_submitted_is_cancelled() -> None:
    async def run() -> None:
        request = Request(Started("spoken"))
        answer = early(request, [])
        answer.drop()
        await answer.run()
        assert request.cancelled

    asyncio.run(run())


def test_jobs_are_compared_by_what_the_model_reads() -> None:
    one, other = job(), replace(job(), number=7)
    assert one.messages[1] is not other.messages[1] and is_same(one, other)
    assert not is_same(one, replace(one, aloud="Hello."))
    assert not is_same(one, replace(one, messages=one.messages[1:]))
    changed = np.arange(100, dtype=np.int16)
    changed[50] += 1
    for audio in (Audio(Array(changed), 16_000), Audio(Array(changed[:50]), 16_000), Audio(Array(changed), 8_000)):
        assert not is_same(one, replace(one, messages=(one.messages[0], Message("user", (audio,)))))
