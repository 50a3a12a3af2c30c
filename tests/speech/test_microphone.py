"""The microphone on a device made for tests: turns, echo, barge-in; the echo canceller and playback by themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.speech.devices import CountingVad, Room, echo_of
from tests.speech.recordings import RATE, recording, silence

from vita.errors import ResourceError
from vita.speech.device import DefaultDevice
from vita.speech.echo import EchoCanceller
from vita.speech.listener import Listener
from vita.speech.microphone import Microphone, MicrophoneEvent
from vita.speech.playback import Playback, SpokenText
from vita.speech.resample import StreamResampler
from vita.speech.turns import IdleTimeout, SpeechStarted, SpeechStopped, TurnOptions
from vita.speech.vad import load_vad

Samples = np.ndarray


def questions_spoken(rate: int, names: tuple[str, ...] = ("question03", "question07", "question01")) -> Samples:
    return np.concatenate([np.concatenate([recording(name, rate), np.zeros(rate // 4, np.float32)]) for name in names])


def all_events(microphone: Microphone) -> Iterator[MicrophoneEvent]:
    while (event := microphone.next_event(0)) is not None:
        yield event


def answer(microphone: Microphone, samples: Samples, characters: int = 100) -> threading.Thread:
    """Play an answer in chunks of 80 ms, from a thread as the real one."""

    def run() -> None:
        number = microphone.begin_answer()
        for at in range(0, len(samples), 1_920):
            end = min(len(samples), at + 1_920)
            if not microphone.play(number, samples[at:end], characters * end // len(samples)):
                return
        microphone.finish_answer(number)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_question_is_heard_through_the_device() -> None:
    vad, said = CountingVad(load_vad()), recording("question03", 48_000)
    room = Room(vad, [(0, np.zeros(24_000, np.float32)), (0, said)])
    microphone = Microphone(room, vad, EchoCanceller())
    microphone.start()
    room.wait()
    started, stopped = (event.heard for event in all_events(microphone))
    microphone.close()
    assert isinstance(started.event, SpeechStarted) and isinstance(stopped.event, SpeechStopped)
    assert stopped.audio is not None
    wanted = np.concatenate([silence(0.5), recording("question03"), silence(1)])
    wanted = wanted[stopped.event.start :][: len(stopped.audio)]
    # The canceller has a high-pass filter and delays by its filter bank: the same envelope.
    envelope = [np.sqrt(np.convolve(x**2, np.ones(800) / 800, "same")[::160]) for x in (wanted, stopped.audio)]
    assert np.corrcoef(envelope[0], envelope[1][: len(envelope[0])])[0, 1] > 0.95


@pytest.mark.parametrize("cancelled", [True, False])
def test_the_answer_does_not_interrupt_itself(cancelled: bool) -> None:
    """Without echo cancelling it does, so the test shows something."""
    vad = CountingVad(load_vad())
    room = Room(vad, [(4.0, np.zeros(0, np.float32))], echo=echo_of(rate=16_000), sample_rate=16_000)
    if not cancelled:
        room.script = [(0.2, np.zeros(0, np.float32))]
    microphone = Microphone(room, vad, EchoCanceller() if cancelled else None)
    microphone.start()
    thread = answer(microphone, questions_spoken(24_000))
    room.wait()
    thread.join(30)
    events = [event.heard.event for event in all_events(microphone)]
    microphone.close()
    interrupted = [event for event in events if isinstance(event, SpeechStarted)]
    assert not interrupted if cancelled else interrupted[0].interrupts


def test_speech_stops_the_answer_and_tells_what_was_heard() -> None:
    vad = CountingVad(load_vad())
    room = Room(vad, [(3.0, recording("question10", 16_000))], echo=echo_of(), sample_rate=16_000)
    microphone = Microphone(room, vad, EchoCanceller())
    spoken = questions_spoken(24_000)
    microphone.start()
    thread = answer(microphone, spoken, characters=1_000)
    room.wait()
    thread.join(30)
    started, *_, stopped = list(all_events(microphone))
    microphone.close()
    assert isinstance(started.heard.event, SpeechStarted) and started.heard.event.interrupts
    assert isinstance(stopped.heard.event, SpeechStopped) and stopped.heard.event.answer
    # What was heard is what was played until the speech began, to a chunk of 80 ms.
    played = np.concatenate(room.played)
    first = int(np.flatnonzero(played)[0])
    seconds = (started.heard.event.onset - first) / 16_000
    assert started.heard_characters is not None
    assert abs(started.heard_characters / 1_000 * len(spoken) / 24_000 - seconds) < 0.15
    assert 2.5 < seconds < 3 + len(recording("question10")) / RATE
    # Silence from the moment the event was given, as far as the device may be ahead of the computation.
    assert not played[started.heard.event.at + 3_200 :].any()


def test_silence_after_a_spoken_answer_counts_from_its_end() -> None:
    vad = CountingVad(load_vad())
    room = Room(vad, [(1.0, np.zeros(0, np.float32))], sample_rate=16_000, tail=3)
    microphone = Microphone(room, vad, None, TurnOptions(idle_timeout_ms=1_000))
    microphone.start()
    answer(microphone, 0.1 * np.sin(np.arange(24_000) / 5).astype(np.float32)).join(30)
    room.wait()
    (event,) = (event.heard.event for event in all_events(microphone))
    microphone.close()
    end = int(np.flatnonzero(np.concatenate(room.played))[-1])
    assert isinstance(event, IdleTimeout) and abs(event.start - end) < 3_200


def test_a_device_that_stops_is_an_error_and_a_blocked_answer_is_freed() -> None:
    vad = CountingVad(load_vad())
    room = Room(vad, [], sample_rate=16_000, tail=0.1, unplugged=True)
    microphone = Microphone(room, vad, None)
    microphone.start()
    room.wait()
    thread = answer(microphone, np.ones(24_000 * 10, np.float32))
    with pytest.raises(ResourceError, match="microphone has stopped"):
        while microphone.next_event(5) is not None:
            pass
    microphone.close()
    thread.join(30)
    assert not thread.is_alive()


class Idle:
    """A device that runs when a test says so."""

    sample_rate = 16_000

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.closed = error, False

    def start(self, exchange: Callable[[Samples], Samples], stopped: Callable[[], None]) -> None:
        if self.error is not None:
            raise self.error
        self.exchange, self.stopped = exchange, stopped

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("error", [ResourceError("the microphone cannot be used"), RuntimeError("no device")])
def test_a_device_that_does_not_start_leaves_no_thread(error: Exception) -> None:
    microphone = Microphone(Idle(error), load_vad(), None)
    with pytest.raises(type(error)):
        microphone.start()
    assert not any(thread.name == "vita-microphone" for thread in threading.enumerate())
    microphone.close()


@pytest.mark.parametrize("fault", ["slow", "playback", "listener", "stopped"])
def test_an_error_is_told_once_and_then_there_is_silence(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device, vad = Idle(), load_vad()
    microphone = Microphone(device, vad, None)
    busy = threading.Event()

    def fail(*arguments: object) -> None:
        raise RuntimeError("broken")

    if fault == "slow":
        monkeypatch.setattr(Listener, "feed", lambda self, samples: busy.wait(30) and [])
    elif fault == "listener":
        monkeypatch.setattr(Listener, "feed", fail)
    elif fault == "playback":
        monkeypatch.setattr(Playback, "take", fail)
    microphone.start()
    if fault == "stopped":
        device.stopped()
    block = np.ones(160, np.float32)
    microphone.play(microphone.begin_answer(), np.ones(2_400, np.float32), 1)
    for _ in range(3_000):
        device.exchange(block)
    with pytest.raises((ResourceError, RuntimeError)):
        while True:
            microphone.next_event(30)
    assert not device.exchange(block).any()
    device.stopped()
    busy.set()
    assert microphone.next_event(0.05) is None
    microphone.close()
    assert device.closed


def test_a_machine_without_a_device_gets_one_sentence() -> None:
    try:
        DefaultDevice()
    except ResourceError as error:
        text = str(error)
    else:
        pytest.skip("this machine has a sound device")
    assert any(part in text for part in ("no microphone", "no loudspeaker", "PortAudio", "sounddevice"))
    assert text.count("\n") == 0


@pytest.mark.parametrize("delay", [0.01, 0.05, 0.2])
def test_echo_cancelling_takes_30_db(delay: float) -> None:
    played = questions_spoken(RATE)
    recorded = np.convolve(played, echo_of(delay=delay))[: len(played)].astype(np.float32)
    recorded += 0.0003 * np.random.default_rng(1).standard_normal(len(played)).astype(np.float32)
    cleaned = EchoCanceller().feed(recorded, played)
    later = slice(2 * RATE, len(cleaned))  # it adapts in the first seconds
    attenuation = 10 * np.log10((recorded[later] ** 2).mean() / (cleaned[later] ** 2).mean())
    print(f"echo delayed by {delay * 1000:.0f} ms: {attenuation:.1f} dB after the first 2 s")
    assert attenuation > 30
    assert Listener(load_vad()).feed(recorded), "the echo is speech"
    assert not Listener(load_vad()).feed(cleaned)


@given(st.lists(st.integers(0, 2_000), max_size=10))
@settings(max_examples=15, deadline=None)
def test_echo_cancelling_does_not_depend_on_the_cut(sizes: list[int]) -> None:
    played = recording("question03")
    recorded = np.convolve(played, echo_of())[: len(played)].astype(np.float32)
    whole, canceller, got, at = EchoCanceller().feed(recorded, played), EchoCanceller(), [], 0
    for size in [*sizes, len(played)]:
        got.append(canceller.feed(recorded[at : at + size], played[at : at + size]))
        at += size
    np.testing.assert_array_equal(np.concatenate(got), whole)
    canceller.reset()
    np.testing.assert_array_equal(canceller.feed(recorded, played), whole)


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 300)), max_size=20), st.integers(0, 120_000))
def test_heard_text_never_runs_ahead_of_the_audio(chunks: list[tuple[int, int]], samples: int) -> None:
    text, end, at, expected = SpokenText(), 0, 0, 0
    for length, characters in chunks:
        end, at = end + characters, at + length
        text.add(length, end)
        expected = end if at <= samples else expected
    assert text.heard(samples) == expected
    assert text.heard(at) == end


@given(st.lists(st.integers(1, 4_000), max_size=8), st.lists(st.integers(1, 3_000), max_size=30))
@settings(max_examples=30, deadline=None)
def test_playback_gives_every_sample_once(chunks: list[int], takes: list[int]) -> None:
    spoken = np.random.default_rng(0).uniform(-1, 1, sum(chunks)).astype(np.float32)
    playback, at = Playback(48_000), 0
    number = playback.begin()
    for index, length in enumerate(chunks):
        assert playback.add(number, spoken[at : at + length], index + 1)
        at += length
    playback.finish(number)
    got = np.concatenate([np.zeros(0, np.float32), *(playback.take(count) for count in [*takes, 200_000])])
    resampler = StreamResampler(24_000, 48_000)
    wanted = np.concatenate([resampler.feed(spoken), resampler.finish()])
    np.testing.assert_array_equal(got[: len(wanted)], wanted)
    assert not got[len(wanted) :].any() and not playback.playing
    assert playback.stop() == len(chunks)
    assert not playback.add(number, spoken, 1), "a stopped answer takes no more"


def test_an_answer_that_is_stopped_does_not_play_into_the_next() -> None:
    playback = Playback(24_000)
    first = playback.begin()
    playback.add(first, np.ones(48_000, np.float32), 10)
    blocked = threading.Thread(target=playback.add, args=(first, np.ones(48_000, np.float32), 20), daemon=True)
    blocked.start()
    playback.take(24_000)
    second = playback.begin()
    blocked.join(30)
    assert not blocked.is_alive() and not playback.add(first, np.ones(9, np.float32), 30)
    assert playback.add(second, np.full(10, 0.5, np.float32), 5)
    np.testing.assert_array_equal(playback.take(12), [0.5] * 10 + [0, 0])
    assert playback.stop(at=24_000) == 0 and playback.stop() == 0
