"""Speech in the engine's thread: order, batches, pauses and ends, on a fake clock; and in a real engine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.engine.fakes import FakeClock, FakeEngine, read, text
from tests.speech.checkpoints import tiny_speech, write_speech
from torch import Tensor

import vita
from vita.engine.decode import EagerDecode
from vita.errors import Cancelled, CheckpointError, RequestError, ResourceError
from vita.speech.checkpoint import SpeechModel
from vita.speech.checkpoint_voice import CheckpointVoice, open_checkpoint_voice
from vita.speech.join import ReferenceStreaming
from vita.speech.runner import SpeechRunner
from vita.speech.session import MAX_UNREAD, START_SECONDS, SpeechSession
from vita.speech.stream import SpeechStream
from vita.speech.tts import SpeechSampling
from vita.types import Message, SamplingParams, Text

Samples = NDArray[np.float32]
STEP = 0.01  # seconds of a decode step on the fake clock
OPTIONS = SpeechSampling(top_k=1, max_tokens=45)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    """A decoder that never ends by itself: each text gives `max_tokens` tokens."""
    model = tiny_speech(tmp_path_factory.mktemp("speech"))
    model.decoder.decoder.head.bias[model.decoder.config.end_id] = -1e4
    return model


class TimedDecode:
    """A decode runner that takes `STEP` seconds of the fake clock, and notes the sizes of its batches."""

    def __init__(self, model: SpeechModel, clock: FakeClock) -> None:
        self._decode, self._clock = EagerDecode(model.decoder.decoder), clock
        self.sizes: list[int] = []
        self.raises: Exception | None = None

    def __call__(self, tokens: Tensor, caches: list) -> Tensor:  # type: ignore[type-arg]
        if self.raises is not None:
            raise self.raises
        self._clock.now += STEP
        self.sizes.append(len(caches))
        return self._decode(tokens, caches)


class Spoken:
    """One text that a test reads without a thread."""

    def __init__(self, setup: Setup, rows: int, options: SpeechSampling = OPTIONS, **keywords: object) -> None:
        self.session = keywords.pop("session", None) or SpeechSession(options, keywords.pop("reference", None))  # type: ignore[arg-type]
        self.rows = torch.randn(rows, 48, generator=torch.Generator().manual_seed(rows))
        self.pieces: list[Samples] = []
        self.ended = False
        self.text = setup.runner.begin(self.session, lambda: self.rows, **keywords)  # type: ignore[arg-type]

    def read(self) -> Spoken:
        """Take what is there."""
        while self.text.audio.waiting and not self.ended:
            piece = self.text.audio.get()
            self.ended = piece is None
            self.pieces += [] if piece is None else [piece]
        return self

    @property
    def audio(self) -> Samples:
        return np.concatenate([np.zeros(0, np.float32), *self.pieces])


class Setup:
    def __init__(self, model: SpeechModel) -> None:
        self.model, self.clock = model, FakeClock()
        self.decode = TimedDecode(model, self.clock)
        self.runner = SpeechRunner(model, clock=self.clock, decode=self.decode)

    def step(self, count: int = 1, budget: float = 0.0) -> None:
        with torch.inference_mode():
            for _ in range(count):
                self.runner.run_some(budget)

    def run(self, *spoken: Spoken, most: int = 20_000) -> None:
        for _ in range(most):
            if all(one.read().ended for one in spoken):
                return
            assert self.runner.slack() is not None, "it has work until the end"
            self.step()
        raise AssertionError("it does not come to an end")

    def expected(self, spoken: Spoken) -> Samples:
        """The audio of a text that is spoken alone."""
        decode = EagerDecode(self.model.decoder.decoder)
        tokens = self.model.decoder.generate(decode, spoken.rows.reshape(1, -1, 24), spoken.session.options)
        return self.model.codec(tokens).numpy()


@pytest.fixture
def setup(model: SpeechModel) -> Setup:
    return Setup(model)


def same(got: Samples, wanted: Samples) -> None:
    assert got.shape == wanted.shape
    assert float(np.abs(got - wanted).max()) <= 2e-6


def test_a_text_is_spoken_whole_and_its_first_piece_is_short(setup: Setup) -> None:
    spoken = Spoken(setup, 3)
    assert setup.runner.slack() == START_SECONDS
    setup.run(spoken)
    assert len(spoken.audio) == 600 * 45
    same(spoken.audio, setup.expected(spoken))
    assert 0 < len(spoken.pieces[0]) <= 1920 < max(map(len, spoken.pieces))
    stats = setup.runner.stats()
    assert (stats.texts, stats.tokens, stats.steps) == (1, 45, 45)
    assert stats.audio_seconds == pytest.approx(45 / 40)
    assert stats.real_time_factor == pytest.approx(stats.compute_seconds * 40 / 45)
    assert stats.first_audio[0] < 30 * STEP
    assert setup.runner.slack() is None


def test_sessions_share_decode_steps_and_sound_as_they_do_alone(setup: Setup) -> None:
    spoken = [Spoken(setup, n, SpeechSampling(top_k=1, max_tokens=20 + n)) for n in (2, 4, 6, 8)]
    setup.run(*spoken)
    for one in spoken:
        same(one.audio, setup.expected(one))
    assert max(setup.decode.sizes) == 4
    assert len(setup.decode.sizes) <= 30, "28 steps for the longest, nearly no more for the others"


def test_more_sessions_than_a_step_has_rows(setup: Setup) -> None:
    options = SpeechSampling(top_k=1, max_tokens=3)
    spoken = [Spoken(setup, 1 + n % 3, options) for n in range(20)]
    setup.run(*spoken)
    assert max(setup.decode.sizes) == 16 and all(len(one.audio) == 1800 for one in spoken)


def test_whose_audio_runs_dry_first_is_computed_first(setup: Setup) -> None:
    early = Spoken(setup, 3)
    while sum(map(len, early.read().pieces)) < 9600:  # 0.4 s are made in much less
        setup.step()
    assert 0.3 < setup.runner.slack() < 0.5  # type: ignore[operator]
    late = Spoken(setup, 4)
    assert setup.runner.slack() == pytest.approx(START_SECONDS)
    begun = len(early.pieces)
    while not late.read().pieces:
        setup.step()
    assert len(early.read().pieces) <= begun + 1, "what is heard waits for who hears nothing yet"
    setup.run(early, late)
    same(early.audio, setup.expected(early))


def test_the_next_text_of_a_session_is_due_when_the_first_has_been_heard(setup: Setup) -> None:
    first = Spoken(setup, 3)
    setup.run(first)
    spent = setup.clock.now
    second = Spoken(setup, 5, session=first.session, first=False)
    slack = setup.runner.slack()
    assert slack is not None and 0.3 < 45 / 40 - spent - 0.01 <= slack <= 45 / 40
    setup.run(second)
    same(second.audio, setup.expected(second))
    setup.clock.now += 100
    third = Spoken(setup, 5, session=first.session, first=False)
    assert setup.runner.slack() == pytest.approx(START_SECONDS), "silence since then is not made up for"
    third.text.cancelled = True


@pytest.mark.slow
def test_a_reader_that_is_behind_pauses_its_session_alone(setup: Setup) -> None:
    options = SpeechSampling(top_k=1, max_tokens=400)
    slow, other = Spoken(setup, 3, options), Spoken(setup, 4, options)
    setup.run(other)
    assert other.ended and not slow.pieces
    while setup.runner.slack() is not None:
        setup.step()
    assert MAX_UNREAD <= slow.text.audio.unread <= MAX_UNREAD + 20 * 600
    before = slow.text.audio.unread
    setup.step(5)
    assert slow.text.audio.unread == before, "nothing is computed"
    setup.run(slow)
    assert len(slow.audio) == 400 * 600


def test_a_cancelled_text_costs_no_further_step(setup: Setup) -> None:
    kept, cancelled = Spoken(setup, 3), Spoken(setup, 4)
    while not cancelled.read().pieces:
        setup.step()
    cancelled.text.cancelled = True
    steps = len(setup.decode.sizes)
    setup.run(kept)
    assert set(setup.decode.sizes[steps:]) == {1}
    same(kept.audio, setup.expected(kept))


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 20, 60])
def test_a_session_that_is_closed_ends_its_reader_cleanly(
    setup: Setup, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    spoken, other = Spoken(setup, 3), Spoken(setup, 4)
    setup.step(steps)
    setup.runner.end_session(spoken.session)
    assert spoken.session.cache is None
    setup.run(other)
    assert spoken.read().ended and not caplog.records
    same(other.audio, setup.expected(other))


def test_a_text_that_fails_ends_alone(setup: Setup) -> None:
    sane, broken = Spoken(setup, 3), Spoken(setup, 4)
    broken.rows = torch.zeros(2, 25)
    with pytest.raises(CheckpointError, match="does not divide"):
        setup.run(sane, broken)
    broken.ended = True
    setup.run(sane)
    same(sane.audio, setup.expected(sane))
    third = Spoken(setup, 5)
    setup.decode.raises = RuntimeError("out of luck")
    with pytest.raises(RuntimeError, match="out of luck"):
        setup.run(third)
    assert setup.runner.slack() is None


def test_the_end_of_the_engine_reaches_every_reader(setup: Setup) -> None:
    spoken = Spoken(setup, 3)
    setup.runner.end(Cancelled())
    with pytest.raises(ResourceError, match="closed"):
        spoken.read()
    with pytest.raises(ResourceError, match="closed"):
        next(setup.runner.speak(SpeechSession(OPTIONS), lambda: spoken.rows))
    assert setup.runner.slack() is None


def test_a_budget_bounds_what_is_computed_at_once(setup: Setup) -> None:
    spoken = Spoken(setup, 3)
    setup.step(30)  # past the prefix: a piece is a decode step now
    steps = len(setup.decode.sizes)
    setup.step(budget=3 * STEP)
    assert 1 <= len(setup.decode.sizes) - steps <= 3
    spoken.text.cancelled = True


def test_streaming_as_the_reference_does(setup: Setup) -> None:
    spoken = Spoken(setup, 3, reference=ReferenceStreaming(20, 10, 2401, 10.0))
    setup.run(spoken)
    assert len(spoken.audio) == 600 * 45
    assert float(np.abs(spoken.audio - setup.expected(spoken)).mean()) < 0.02


def test_a_session_that_is_reset_speaks_the_same_again(setup: Setup) -> None:
    session = SpeechSession(SpeechSampling(top_k=8, seed=4, max_tokens=30))
    heard = []
    for _ in range(2):
        first, second = Spoken(setup, 3, session=session), None
        setup.run(first)
        second = Spoken(setup, 3, session=session)
        setup.run(second)
        heard.append((first.audio, second.audio))
        session.reset()
    assert np.array_equal(heard[0][0], heard[1][0]) and np.array_equal(heard[0][1], heard[1][1])
    assert not np.array_equal(heard[0][0], heard[0][1]), "the draws go on from text to text"


# Beside text


def test_speech_of_one_session_does_not_stall_the_text_of_another(mini: Path, model: SpeechModel) -> None:
    """Between two text steps at most the budget is spoken, and what is heard in time leaves all time to text."""
    engine = FakeEngine(mini / "mini_ckpt", max_events=5000)
    engine.model.step_seconds = 0.1
    stream = engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=400, ignore_eos=True))
    engine.start(stream)
    engine.step(3)
    setup = Setup(model)
    setup.clock = setup.decode._clock = engine.clock
    setup.runner.clock = setup.runner._threads._clock = engine.clock
    engine.core.scheduler.background.attach(setup.runner)
    spoken = Spoken(setup, 3, SpeechSampling(top_k=1, max_tokens=300))
    engine.model.log.clear()
    marks: list[tuple[str, float]] = []
    for _ in range(60):
        before = len(setup.decode.sizes)
        engine.step()
        spoken.read()
        marks.append(("speech" if len(setup.decode.sizes) > before else "text", len(setup.decode.sizes) - before))
    # A text step takes 0.1 s, a speech step 0.01 s: the budget of three text steps.
    assert max(count for _, count in marks) <= 30
    assert [kind for kind, _ in engine.model.log].count("decode") == 60, "every turn decodes text"
    shares = [kind for kind, _ in groupby(kind for kind, _ in marks)]
    assert len(shares) > 3, "speech pauses while its audio is heard"
    heard = sum(map(len, spoken.pieces)) / 24_000
    assert heard >= min(7.5, engine.clock.now - spoken.text.arrived - 0.6), "and never runs dry after the first audio"
    engine.run()
    assert read(stream)[-1].token_ids == engine.expected(stream).ids  # type: ignore[union-attr]
    assert spoken.read().ended and len(spoken.audio) == 300 * 600


def embedding(loaded: vita.Vita) -> Callable[[list[int]], Tensor]:
    return lambda ids: loaded.engine.model.decoder.embed_tokens(torch.tensor(ids))


@pytest.fixture(scope="module")
def voice(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[vita.Vita, CheckpointVoice]]:
    """A real engine that speaks."""
    loaded = vita.load(mini / "mini_ckpt", dtype="float32", device="cpu")
    engine = loaded.engine
    speech = tiny_speech(tmp_path_factory.mktemp("speech"))
    speech.decoder.decoder.head.bias[speech.decoder.config.end_id] = -1e4
    runner = SpeechRunner(speech)
    runner.attach(engine)
    options = SpeechSampling(top_k=8, max_tokens=30)
    yield loaded, CheckpointVoice(speech, engine.model.tokenizer.encode, embedding(loaded), runner, options=options)
    loaded.close()


def test_the_checkpoints_voice_speaks_in_pieces_of_at_most_80_ms(voice: tuple[vita.Vita, CheckpointVoice]) -> None:
    stream = voice[1].open(language="en", speed=1, seed=3)
    pieces = list(stream.speak("Hello there.", first=True))
    audio = np.concatenate(pieces)
    assert audio.dtype == np.float32 and len(audio) == 30 * 600 and max(map(len, pieces)) <= 1920
    assert float(np.abs(audio).max()) <= 1
    stream.reset()
    assert np.array_equal(np.concatenate(list(stream.speak("Hello there.", first=True))), audio)
    assert list(stream.speak("", first=False)) == []
    stream.close()


def test_the_speed_changes_the_duration(voice: tuple[vita.Vita, CheckpointVoice]) -> None:
    for speed in (0.5, 2.0):
        stream = voice[1].open(language="zh", speed=speed, seed=1)
        assert sum(map(len, stream.speak("Hello.", first=True))) == round(30 * 600 / speed)
    with pytest.raises(RequestError, match="speed"):
        voice[1].open(language="en", speed=5, seed=1)


class Reader(threading.Thread):
    """Reads a stream to its end, and says when it has had so many chunks."""

    def __init__(self, stream: SpeechStream, chunks: int) -> None:
        super().__init__(daemon=True)
        self.stream, self.chunks = stream, chunks
        self.some = threading.Event()
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            for number, _ in enumerate(self.stream, 1):
                if number >= self.chunks:
                    self.some.set()
        except BaseException as error:
            self.failed = error


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_stream_that_another_thread_closes_ends_cleanly(
    voice: tuple[vita.Vita, CheckpointVoice], chunks: int, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        stream = SpeechStream(lambda language: voice[1])
        stream.feed("One, two and three, and so on for a while. " * 30)
        reader = Reader(stream, chunks)
        reader.start()
        assert chunks == 0 or reader.some.wait(60)
        stream.close()
        reader.join(60)
        assert not reader.is_alive() and reader.failed is None and not caplog.records
    utterances = voice[1].open(language="en", speed=1, seed=1)
    pieces = utterances.speak("Hello there.", first=True)
    next(pieces)
    utterances.close()
    assert len(list(pieces)) < 30 and list(utterances.speak("Hello.", first=True)) == []


def test_threads_speak_while_text_is_written_and_one_stops_early(voice: tuple[vita.Vita, CheckpointVoice]) -> None:
    loaded, own = voice
    alone = [
        np.concatenate(list(own.open(language="en", speed=1, seed=n).speak("One, two.", first=True))) for n in (1, 2)
    ]
    heard: dict[int, Samples] = {}

    def speak(seed: int) -> None:
        heard[seed] = np.concatenate(list(own.open(language="en", speed=1, seed=seed).speak("One, two.", first=True)))

    handle = loaded.submit(Message("user", (Text("count"),)), SamplingParams(max_tokens=40))
    threads = [threading.Thread(target=speak, args=(n,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    cancelled = own.open(language="en", speed=1, seed=9).speak("never heard to its end", first=True)
    next(cancelled)
    cancelled.close()  # type: ignore[attr-defined]
    for thread in threads:
        thread.join(60)
    for seed in (1, 2):
        same(heard[seed], alone[seed - 1])
    assert handle.result().finish_reason in ("stop", "length")


def test_a_model_with_a_speech_checkpoint_has_a_voice(mini: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(mini, tmp_path / "mini", ignore=shutil.ignore_patterns("inputs", "model")))
    with_none = vita.load(folder / "mini_ckpt", dtype="float32", device="cpu")
    assert open_checkpoint_voice(with_none.engine) is None
    with_none.close()
    write_speech(folder / "mini_ckpt" / "vita_tts_ckpt")
    loaded = vita.load(folder / "mini_ckpt", dtype="float32", device="cpu")
    own = open_checkpoint_voice(loaded.engine)
    assert own is not None and own.name == "vita"
    stream = own.open(language="en", speed=1, seed=1)
    audio = np.concatenate([np.zeros(0, np.float32), *stream.speak("Hello.", first=True)])
    assert len(audio) % 600 == 0
    write_speech(
        folder / "mini_ckpt" / "vita_tts_ckpt",
        decoder={"idim": 30, **{"transformer_attention_dim": 30, "encoder_output_dim": 30}},
    )
    with pytest.raises(CheckpointError, match="idim 30 does not divide the text's embedding size 48"):
        open_checkpoint_voice(loaded.engine)
    assert loaded.engine.is_healthy, "a checkpoint that is refused ends nothing else"
    loaded.close()


def test_a_closed_engine_ends_speech_with_a_sentence(mini: Path, tmp_path: Path) -> None:
    loaded = vita.load(mini / "mini_ckpt", dtype="float32", device="cpu")
    speech = tiny_speech(tmp_path)
    runner = SpeechRunner(speech)
    runner.attach(loaded.engine)
    own = CheckpointVoice(speech, loaded.engine.model.tokenizer.encode, embedding(loaded), runner)
    pieces = own.open(language="en", speed=1, seed=1).speak("Hello.", first=True)
    loaded.close()
    with pytest.raises(ResourceError, match="closed"):
        list(pieces)
    with pytest.raises(ResourceError, match="closed"):
        runner.attach(loaded.engine)
