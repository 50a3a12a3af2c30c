"""The audio buffer: turns by voice activity, manual commits, and settings that change in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.serve.realtime.client import question, silence
from tests.serve.realtime.wire import CATALOG
from vita.serve.realtime.audio_buffer import AudioBuffer, turn_options
from vita.serve.realtime.events import RealtimeError
from vita.serve.realtime.session import Session, TurnDetection, new_session
from vita.speech.listener import SILENCE_KEPT, Heard, ListenerThread
from vita.speech.turns import SpeechStarted, SpeechStopped
from vita.speech.vad import SileroVad, load_vad

MANUAL = {"audio": {"input": {"turn_detection": None}}}
TELEPHONE = {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    return load_vad()


@pytest.fixture
def thread() -> Iterator[ListenerThread]:
    one = ListenerThread()
    yield one
    one.close()


def session(**update: Any) -> Session:
    return new_session("sess", CATALOG, 0).merge(update)


def with_buffer(
    vad: SileroVad, thread: ListenerThread, first: Session, run: Callable[[AudioBuffer], Awaitable[None]]
) -> None:
    async def main() -> None:
        await run(AudioBuffer(first, vad, thread, max_seconds=10))

    asyncio.run(main())


def names(heard: list[Heard]) -> list[str]:
    return [type(one.event).__name__ for one in heard]


def test_a_turn_is_heard_with_its_audio(vad: SileroVad, thread: ListenerThread) -> None:
    async def run(buffer: AudioBuffer) -> None:
        heard = await buffer.append(np.concatenate([silence(1), question(), silence(1)]))
        assert names(heard) == ["SpeechStarted", "TurnPaused", "SpeechStopped"]
        started, (paused, stopped) = heard[0].event, heard[1:]
        assert isinstance(started, SpeechStarted) and isinstance(stopped.event, SpeechStopped)
        assert 700 <= buffer.milliseconds(started.start) <= 1300
        assert paused.audio is not None and stopped.audio is not None
        assert len(stopped.audio) == stopped.event.speech_end + SILENCE_KEPT - stopped.event.start
        assert np.array_equal(paused.audio, stopped.audio), "an answer to what was heard at the pause is the answer"
        with pytest.raises(RealtimeError):  # the turn has taken the audio
            await buffer.commit()

    with_buffer(vad, thread, session(), run)


@pytest.mark.parametrize("pause", [0.0, 2.0])
def test_silence_around_a_manual_turn_is_left_out(vad: SileroVad, thread: ListenerThread, pause: float) -> None:
    """300 ms before the speech and 256 ms after it stay; pauses within it do, too."""

    async def run(buffer: AudioBuffer) -> None:
        for before, after in ((0.0, 0.0), (1.5, 2.0)):
            speech = np.concatenate([question(), silence(pause), question()])
            spoken = len(speech) / 24_000
            await buffer.append(np.concatenate([silence(before), speech, silence(after)]))
            samples, rate = await buffer.commit()
            assert rate == 24_000 and spoken - 0.3 < len(samples) / rate < spoken + 0.8
            assert np.abs(samples[:24_000]).max() > 1000 and np.abs(samples[-24_000:]).max() > 1000
        await buffer.append(silence(1.0))
        assert len((await buffer.commit())[0]) == 24_000, "no speech is found: nothing is left out"

    with_buffer(vad, thread, session(**MANUAL), run)


def test_manual_commits(vad: SileroVad, thread: ListenerThread) -> None:
    async def run(buffer: AudioBuffer) -> None:
        speech = question()
        assert await buffer.append(speech) == []
        samples, rate = await buffer.commit()
        assert rate == 24_000 and (samples == speech).all()
        await buffer.append(silence(0.099))
        with pytest.raises(RealtimeError) as error:
            await buffer.commit()
        assert error.value.code == "input_audio_buffer_commit_empty"
        await buffer.append(silence(0.05))
        assert len((await buffer.commit())[0]) == round(0.149 * 24_000)
        await buffer.append(silence(1))
        await buffer.clear()
        with pytest.raises(RealtimeError):
            await buffer.commit()

    with_buffer(vad, thread, session(**MANUAL), run)


def test_old_audio_is_dropped_without_a_commit(vad: SileroVad, thread: ListenerThread) -> None:
    async def run(buffer: AudioBuffer) -> None:
        for _ in range(15):
            await buffer.append(silence(1))
        assert len((await buffer.commit())[0]) in (240_000, 264_000)

    with_buffer(vad, thread, session(**MANUAL), run)


def test_a_commit_while_the_user_speaks_takes_the_turn(vad: SileroVad, thread: ListenerThread) -> None:
    async def run(buffer: AudioBuffer) -> None:
        assert names(await buffer.append(np.concatenate([silence(2), question()[:24_000]]))) == ["SpeechStarted"]
        samples, rate = await buffer.commit()
        assert rate == 16_000 and len(samples) < 1.6 * rate, "without the silence before it"

    with_buffer(vad, thread, session(), run)


def test_settings_change_in_between(vad: SileroVad, thread: ListenerThread) -> None:
    """Time goes on from where it was."""

    async def run(buffer: AudioBuffer) -> None:
        await buffer.append(silence(3))
        buffer.configure(session(**MANUAL))
        assert not buffer.has_turns
        await buffer.append(silence(2))
        buffer.configure(session())
        heard = await buffer.append(np.concatenate([question(), silence(1)]))
        assert names(heard) == ["SpeechStarted", "TurnPaused", "SpeechStopped"]
        assert isinstance(heard[0].event, SpeechStarted) and 4900 <= buffer.milliseconds(heard[0].event.start) <= 5500
        buffer.configure(session(**TELEPHONE))
        heard = await buffer.append(np.concatenate([question(8000), silence(1, 8000)]))
        assert names(heard) == ["SpeechStarted", "TurnPaused", "SpeechStopped"]

    with_buffer(vad, thread, session(), run)


def test_shorter_silence_applies_at_once(vad: SileroVad, thread: ListenerThread) -> None:
    async def run(buffer: AudioBuffer) -> None:
        await buffer.append(question())
        short = {"type": "server_vad", "silence_duration_ms": 200}
        buffer.configure(session(audio={"input": {"turn_detection": short}}))
        assert "SpeechStopped" in names(await buffer.append(silence(0.4)))

    with_buffer(vad, thread, session(), run)


def test_openai_settings_as_ours() -> None:
    detection = TurnDetection(threshold=0.7, prefix_padding_ms=100, silence_duration_ms=300, idle_timeout_ms=5000)
    options = turn_options(detection)
    assert (options.threshold, options.prefix_padding_ms, options.silence_ms) == (0.7, 100, 300)
    assert options.idle_timeout_ms == 5000
    for eagerness, silence_ms in (("low", 8000), ("medium", 4000), ("auto", 4000), ("high", 2000)):
        found = turn_options(TurnDetection(type="semantic_vad", eagerness=eagerness))  # type: ignore[arg-type]
        assert found.silence_ms == silence_ms and not found.idle_timeout_ms
