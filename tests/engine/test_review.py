"""The engine against its edges: the end of the process, wrong arguments, sessions that are interrupted, long talks."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.checkpoints import copy_mini, edit_json
from tests.forks import Forks

import vita
from vita.engine.handle import EventQueue, Handle
from vita.engine.session import Session
from vita.errors import RequestError
from vita.events import Done, Started, TextDelta, Timings, Usage
from vita.media.filterbank import filterbank, filterbank_pieces
from vita.media.policy import UNGUARDED
from vita.prompt.surrogates import replace_surrogates
from vita.prompt.tokenizer import LONG_TEXT
from vita.prompt.turn_reader import PreparedTurn
from vita.runtime.clock import Stopwatch
from vita.runtime.threads import ThreadChoice, cores_are_busy
from vita.types import MediaOptions, SamplingParams

SHORT = SamplingParams(max_tokens=4, ignore_eos=True)
LONG = SamplingParams(max_tokens=1000, ignore_eos=True)


@pytest.fixture
def model(mini: Path) -> Iterator[vita.Vita]:
    with vita.load(mini / "mini_ckpt", dtype="float32", device="cpu") as model:
        yield model


@pytest.fixture
def narrow(mini: Path, tmp_path: Path) -> Iterator[vita.Vita]:
    """The mini model with a context of 400 tokens."""
    folder = copy_mini(mini, tmp_path)
    edit_json(folder / "config.json", lambda data: data.update(tokenizer_model_max_length=400))
    with vita.load(folder, dtype="float32", device="cpu") as model:
        yield model


class Held:
    """The engine thread waits, so that what is asked of it meanwhile arrives together."""

    def __init__(self, model: vita.Vita) -> None:
        self._model, self._go = model, threading.Event()

    def __enter__(self) -> None:
        held = threading.Event()
        self._model.engine.core.inbox.post(lambda: (held.set(), self._go.wait()))  # type: ignore[arg-type]
        assert held.wait(10)

    def __exit__(self, *_: object) -> None:
        self._go.set()


PROGRAM = """
import sys, vita
model = vita.load(sys.argv[1], dtype="float32", device="cpu")
stream = model.stream(vita.user("Tell"), vita.SamplingParams(max_tokens=1000, ignore_eos=True))
next(stream)
{end}
"""


@pytest.mark.parametrize("end", ["sys.exit()", "del stream, model", "model.submit(vita.user('x' * 20000))"])
@pytest.mark.slow
def test_a_program_may_end_while_the_engine_computes(forks: Forks, mini: Path, end: str) -> None:
    """A thread that is killed inside C++ aborts the process: exit code 134, now and then."""
    for _ in range(2):
        command = [sys.executable, "-c", PROGRAM.format(end=end), str(mini / "mini_ckpt")]
        ran = forks.run(command, capture_output=True, text=True, timeout=120)
        assert (ran.returncode, ran.stderr) == (0, "")


def test_a_dropped_engine_ends_its_thread(mini: Path) -> None:
    model = vita.load(mini / "mini_ckpt", dtype="float32", device="cpu")
    assert model.ask("Hello", params=SHORT).finish_reason == "length"
    thread = next(t for t in threading.enumerate() if t is model.engine._thread)
    del model
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "wrong",
    [{"priority": "high"}, {"priority": 1.5}, {"deadline": "5"}, {"deadline": float("nan")}, {"cache_salt": ["a"]}],
    ids=str,
)
def test_scheduling_arguments_of_another_type_are_refused_at_once(model: vita.Vita, wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        model.submit(vita.user("Hello"), SHORT, **wrong)  # type: ignore[arg-type]
    assert model.ask("Hello", params=SHORT).finish_reason == "length"


def test_a_session_takes_one_turn_and_keeps_its_own_options(model: vita.Vita) -> None:
    session = model.session()
    with pytest.raises(RequestError, match="one message at a time"):
        model.submit([vita.user("a"), vita.assistant("b"), vita.user("c")], SHORT, session=session)
    with pytest.raises(RequestError, match="session"):
        model.submit(vita.user("a"), SHORT, session=session, options=MediaOptions(max_tiles=1))


def test_reads_that_hang_hold_up_no_text_and_no_end(mini: Path, tmp_path: Path) -> None:
    """Two pipes that nobody writes take both media workers."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    model = vita.load(mini / "mini_ckpt", dtype="float32", device="cpu")
    hung = [model.submit(vita.user("What?", image=pipe), SHORT, deadline=0.2) for _ in range(2)]
    asked = model.submit(vita.user("Hello"), SHORT, deadline=60)
    assert asked.result().finish_reason == "length"
    assert [handle.result().finish_reason for handle in hung] == ["cancelled"] * 2
    model.close()
    until = time.monotonic() + 10  # let the threads end: opened for both, a pipe never blocks
    while any(thread.name.startswith("vita-media") for thread in threading.enumerate()) and time.monotonic() < until:
        end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        time.sleep(0.05)
        os.close(end)


@pytest.mark.slow
def test_a_program_ends_beside_a_read_that_hangs(forks: Forks, mini: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    program = PROGRAM.format(end="model.submit(vita.user('x', image=sys.argv[2]))")
    command = [sys.executable, "-c", program, str(mini / "mini_ckpt"), str(tmp_path / "pipe")]
    ran = forks.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("where", ["load", "ask"])
def test_an_interrupt_reaches_the_caller_and_the_process_ends(forks: Forks, mini: Path, where: str) -> None:
    program = """
import os, signal, sys, threading, time, vita
def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
try:
    loading = sys.argv[2] == "load"
    model = vita.load(sys.argv[1], dtype="float32", device="cpu", progress=interrupt if loading else None)
    threading.Timer(0.3, interrupt).start()
    model.ask("Hello", params=vita.SamplingParams(max_tokens=100000, ignore_eos=True))
    while True:
        model.ask("Hello", params=vita.SamplingParams(max_tokens=1000, ignore_eos=True))
except KeyboardInterrupt:
    print("interrupted")
"""
    command = [sys.executable, "-c", program, str(mini / "mini_ckpt"), where]
    ran = forks.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "interrupted\n", "")


def test_an_error_in_what_is_told_of_the_end_does_not_reach_the_reader(
    model: vita.Vita, caplog: pytest.LogCaptureFixture
) -> None:
    engine, turn = model.engine, PreparedTurn("user", ("Hello",))

    def told(request: object) -> None:
        raise ValueError("boom")

    asked = engine.submit_prompt(
        lambda watch, guard: engine.processor.assemble([turn], None, watch), SHORT, MediaOptions(), on_end=told
    )
    assert asked.result().finish_reason == "length"
    assert "boom" in caplog.text
    assert model.ask("Hello", params=SHORT).finish_reason == "length"


def test_names_of_alternatives_are_made_token_by_token(model: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, core = model.engine.model.tokenizer, model.engine.core
    decode, in_step, most = tokenizer.decode, [0], [0]

    def counted(ids: Sequence[int]) -> str:
        in_step[0] += 1
        most[0] = max(most[0], in_step[0])
        return decode(ids)

    drain = core.inbox.drain
    monkeypatch.setattr(tokenizer, "decode", counted)
    monkeypatch.setattr(core.inbox, "drain", lambda: in_step.__setitem__(0, 0) or drain())
    result = model.ask("Hello", params=SamplingParams(max_tokens=40, logprobs=20, ignore_eos=True))
    assert len(result.logprobs) == 40 and all(len(token.top) == 20 for token in result.logprobs)
    assert most[0] <= 2 * 21


# The handle


def done(index: int = 0) -> Done:
    return Done("stop", None, Usage(), Timings(), index=index)


def handle(*events: object) -> Handle:
    queue = EventQueue(lambda: None)
    for event in events:
        queue.put(event)  # type: ignore[arg-type]
    return Handle(queue, lambda: None)


def test_the_result_may_be_asked_for_again() -> None:
    asked = handle(Started("typed"), TextDelta("Hi"), done())
    assert asked.result() is asked.result() and asked.result().text == "Hi"


def test_who_asks_for_the_result_again_gets_the_error_again() -> None:
    asked = handle(RequestError("too long"))
    for read in (
        asked.result,
        asked.result,
        lambda: asyncio.run(asked.aresult()),
        lambda: asyncio.run(asked.started()),
    ):
        with pytest.raises(RequestError, match="too long"):
            read()


def test_started_may_be_awaited_again_and_takes_nothing_away() -> None:
    asked = handle(Started("typed"), TextDelta("Hi"), done())

    async def read() -> None:
        assert await asked.started() == await asked.started() == Started("typed")
        assert [type(event) async for event in asked] == [Started, TextDelta, Done]
        assert await asked.started() == Started("typed")

    asyncio.run(read())


def test_a_loop_that_closes_while_an_event_arrives_does_not_reach_the_engine() -> None:
    queue = EventQueue(lambda: None)
    loop = asyncio.new_event_loop()
    reader = loop.create_task(queue.aget())
    loop.run_until_complete(asyncio.sleep(0))
    reader.cancel()
    loop.run_until_complete(asyncio.gather(reader, return_exceptions=True))
    loop.close()
    queue.put(TextDelta("Hi"))  # in the engine thread, which an error would end
    assert queue.get(0) == TextDelta("Hi")


# Sessions


def said(session: Session) -> list[tuple[str, str]]:
    return [(turn.role, str(turn.pieces[0])) for turn in session.turns]


def begin(session: Session, text: str) -> Handle:
    asked = session.submit(vita.user(text), LONG)
    events = iter(asked)
    assert isinstance(next(events), Started)
    events.close()  # type: ignore[attr-defined]  # cancels
    return asked


def test_turns_that_are_cancelled_in_a_row_keep_their_own_answers(model: vita.Vita) -> None:
    session = model.session()
    first = session.submit(vita.user("one"), LONG)
    reader = iter(first)
    heard = ""
    while not heard:
        event = next(reader)
        heard = event.text if isinstance(event, TextDelta) else ""
    with Held(model):
        first.cancel()
        second = session.submit(vita.user("two"), LONG)
        second.cancel()
        third = session.submit(vita.user("three"), SHORT)
    third.result()
    turns = said(session)
    assert turns[0] == ("user", "one") and turns[1][0] == "assistant" and turns[1][1].startswith(heard)
    assert ("user", "three") in turns


def test_a_truncation_meant_for_a_turn_that_is_still_read_spares_the_answer_before(model: vita.Vita) -> None:
    session = model.session()
    session.submit(vita.user("one"), SHORT).result()
    before = said(session)
    with Held(model):
        asked = session.submit(vita.user("two"), LONG)
        asked.cancel()
        session.truncate(0)
    asked.result()
    assert said(session)[: len(before)] == before


def test_a_reset_forgets_the_turn_that_is_being_answered(model: vita.Vita) -> None:
    session = model.session()
    asked = session.submit(vita.user("one"), LONG)
    assert isinstance(next(iter(asked)), Started)
    session.reset()
    asked.cancel()
    model.session().submit(vita.user("x"), SHORT).result()
    assert session.turns == ()


def test_a_long_session_keeps_finding_its_prefix_and_forgets_what_does_not_fit(narrow: vita.Vita) -> None:
    """The beginning of the prompt must stay the same for several turns after old ones were dropped."""
    session = narrow.session(system="Be brief.")
    reused: list[float] = []
    dropped: list[int] = []
    for number in range(24):
        result = session.submit(vita.user(f"question {number} of many words in a row"), SHORT).result()
        reused.append(result.usage.reused_tokens / result.usage.prompt_tokens)
        dropped.append(result.usage.dropped_messages)
    assert dropped[-1] > 0 and dropped == sorted(dropped), "dropped turns stay dropped"
    changes = sum(a != b for a, b in itertools.pairwise(dropped))
    assert 1 <= changes <= 4, dropped
    after = reused[dropped.index(next(d for d in dropped if d)) :]
    assert sum(share > 0.5 for share in after) >= len(after) - changes - 1, reused
    assert len(session.turns) < 2 * 24 - dropped[-1] + 1


def test_the_same_turns_are_dropped_whoever_keeps_the_history(narrow: vita.Vita) -> None:
    """A client that sends the whole conversation every time gets the prompts of a session."""
    processor, session = narrow.engine.processor, narrow.session(system="Be brief.")
    turns: list[PreparedTurn] = []
    for number in range(16):
        asked = vita.user(f"question {number} of many words in a row")
        result = session.submit(asked, SHORT).result()
        turns.append(processor.read_turn(asked, MediaOptions(), Stopwatch(), UNGUARDED))
        whole = processor.assemble(turns, "Be brief.", Stopwatch())
        assert (whole.length, whole.dropped) == (result.usage.prompt_tokens, result.usage.dropped_messages)
        turns.append(PreparedTurn("assistant", (result.text,)))


def test_a_long_history_is_tokenised_turn_by_turn(mini_model: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering the rest anew for every turn that is dropped takes seconds, in which nothing else runs."""
    tokenizer = mini_model.engine.processor.tokenizer
    characters: list[int] = []
    encode: Callable[[str], list[int]] = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text: characters.append(len(text)) or encode(text))
    turns = [PreparedTurn("user" if i % 2 == 0 else "assistant", (f"{i} " * 400,)) for i in range(401)]
    inputs = mini_model.engine.processor.assemble(turns, None, Stopwatch())
    assert inputs.dropped > 0
    assert sum(characters) < 3 * sum(len(str(turn.pieces[0])) for turn in turns) + 20_000


# Work between decode steps


def test_the_front_of_the_audio_encoder_pauses_too(mini_model: vita.Vita) -> None:
    """30 s of audio: filterbank and convolutions come in pieces, and pieces are the whole."""
    model = mini_model.engine.model
    samples = torch.from_numpy(np.random.default_rng(3).normal(0, 0.1, 30 * 16000).astype(np.float32))
    whole = filterbank(samples, model.config.filterbank)
    banks = list(filterbank_pieces(samples, model.config.filterbank))
    assert len(banks) > 4 and torch.allclose(torch.cat(banks), whole, atol=1e-5)
    with torch.inference_mode():
        pieces = list(model.audio.subsample_pieces(whole[None]))
        subsampled = model.audio.subsample(model.audio.normalize(whole[None]))
    assert len(pieces) > 8 and torch.allclose(torch.cat(pieces, dim=1), subsampled, atol=1e-5)


@pytest.mark.parametrize("frames", [7, 10, 11, 255, 256, 259, 260, 513, 1027])
def test_pieces_meet_at_every_length(mini_model: vita.Vita, frames: int) -> None:
    model = mini_model.engine.model
    bank = torch.from_numpy(np.random.default_rng(frames).normal(0, 1, (1, frames, 80)).astype(np.float32))
    with torch.inference_mode():
        pieces = torch.cat(list(model.audio.subsample_pieces(bank)), dim=1)
        assert torch.allclose(pieces, model.audio.subsample(model.audio.normalize(bank)), atol=1e-5)


# The number of threads


class Cores:
    """A clock that what is computed moves on: so many seconds with one thread, and with all four."""

    def __init__(self, one: float, together: float) -> None:
        self.now, self.threads, self.seconds = 0.0, 4, {1: one, 4: together}

    def set(self, threads: int) -> None:
        self.threads = threads

    def compute(self) -> None:
        self.now += self.seconds[self.threads]

    def clock(self) -> float:
        self.now += 1e-6
        return self.now


@pytest.mark.parametrize(("one", "together", "busy"), [(1e-4, 4e-5, False), (5e-5, 6e-5, False), (1e-4, 0.012, True)])
def test_busy_cores_are_known_before_the_first_request(one: float, together: float, busy: bool) -> None:
    cores = Cores(one, together)
    assert cores_are_busy(4, cores.set, cores.compute, cores.clock) is busy
    assert cores.threads == 4 and cores.now < 0.04, "as it was, and quickly"


def test_what_began_with_one_thread_tries_all_of_them_later() -> None:
    cores = Cores(0.013, 0.01)
    choice = ThreadChoice(4, cores.set, lambda: cores.now)
    choice.start_with_one()
    used: list[int] = []
    while cores.now < 5:
        choice.before("step")
        used.append(cores.threads)
        cores.compute()
        choice.after("step", cores.seconds[cores.threads])
    assert set(used[:20]) == {1} and set(used[-20:]) == {4} and choice.current == 4


def test_one_interrupted_step_gives_the_next_unit_no_more_time(model: vita.Vita) -> None:
    scheduler = model.engine.core.scheduler
    for seconds in (0.01, 0.01, 0.01, 4.0):
        scheduler.stepped(seconds)
    assert scheduler.step_seconds == 0.01
    for _ in range(3):  # a larger batch
        scheduler.stepped(0.03)
    assert scheduler.step_seconds == 0.03


def test_long_texts_are_tokenised_as_short_ones_are(mini_model: vita.Vita) -> None:
    """Long ones go through another function of the library, which lets other threads run."""
    tokenizer = mini_model.engine.processor.tokenizer
    text = "Grüße, 世界! \ud83d 12 <|im_end|> " * 400
    parts = [tokenizer.encode(text[:k]) for k in (LONG_TEXT - 1, LONG_TEXT, LONG_TEXT + 1)]
    for k, ids in zip((LONG_TEXT - 1, LONG_TEXT, LONG_TEXT + 1), parts, strict=True):
        whole = tokenizer.backend.encode(replace_surrogates(text[:k]), add_special_tokens=False).ids
        assert ids == whole
