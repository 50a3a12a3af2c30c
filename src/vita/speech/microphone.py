"""Microphone: turns of the user out, audio of answers in, echo cancelled, speech stops the answer."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vita.errors import ResourceError
from vita.speech.device import DuplexDevice
from vita.speech.echo import EchoCanceller
from vita.speech.listener import Heard, Listener
from vita.speech.playback import Playback
from vita.speech.resample import StreamResampler
from vita.speech.turns import AnswerEnded, AnswerStarted, Input, SpeechStarted, TurnOptions
from vita.speech.vad import SAMPLE_RATE, SileroVad

Samples = NDArray[np.float32]
MAX_BLOCKS = 1_000  # 10 s that the device may be ahead of the computation


@dataclass(frozen=True, eq=False)
class MicrophoneEvent:
    """What was heard, and for speech that stopped a spoken answer how many of its characters had been heard."""

    heard: Heard
    heard_characters: int | None = None


class Microphone:
    """Listens and speaks on one device.

    A thread of its own computes echo cancelling and voice activity. Speech that interrupts stops the playback in that
    thread, before anybody reads the event.

    Args:
        device: not started yet.
        vad: the network.
        echo: new; None: the loudspeaker cannot be heard by the microphone, as with headphones.
        options: of the turns.
    """

    def __init__(
        self, device: DuplexDevice, vad: SileroVad, echo: EchoCanceller | None, options: TurnOptions | None = None
    ) -> None:
        self._device, self._echo = device, echo
        self._playback = Playback(device.sample_rate)
        self._recorded = StreamResampler(device.sample_rate, SAMPLE_RATE)
        self._played = StreamResampler(device.sample_rate, SAMPLE_RATE)
        self._listener = Listener(vad, options)
        self._speaking = False  # an answer was begun that has not ended
        self._closed = self._failed = False
        self._inputs: queue.Queue[tuple[Samples, Samples] | Input | None] = queue.Queue()
        self._events: queue.Queue[MicrophoneEvent | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="vita-microphone", daemon=True)

    def start(self) -> None:
        """Begin to listen.

        Raises:
            ResourceError: the device cannot be used. The thread has ended then.
        """
        self._thread.start()
        try:
            self._device.start(self._exchange, self._stopped)
        except BaseException:
            self._closed = True
            self._end_thread()
            raise

    def close(self) -> None:
        """Stop the device and the thread; `play` returns."""
        self._closed = True
        self._playback.stop()
        self._device.close()
        self._end_thread()

    def _end_thread(self) -> None:
        self._inputs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def next_event(self, timeout: float | None = None) -> MicrophoneEvent | None:
        """The next event; None if none came within `timeout` seconds.

        Raises:
            ResourceError: the device has stopped.
        """
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(event, BaseException):
            raise event
        return event

    def tell(self, given: Input) -> None:
        """What the caller's model says of a turn: `Noise`, `TurnComplete`. Its events come like the others."""
        self._inputs.put(given)

    def begin_answer(self) -> int:
        """An answer begins, which speech may stop; returns its number for `play`."""
        answer = self._playback.begin()
        self._inputs.put(AnswerStarted())
        return answer

    def play(self, answer: int, samples: Samples, text_end: int) -> bool:
        """Play a chunk, float32 `[n]` at 24 kHz; blocks while 2 s wait. False: the answer was stopped."""
        return self._playback.add(answer, samples, text_end)

    def finish_answer(self, answer: int) -> None:
        """The answer has no more chunks; it ends once they are played. It may have had none."""
        self._playback.finish(answer)

    def stop_answer(self) -> int:
        """Stop the answer that is played; returns how many of its characters were heard."""
        heard = self._playback.stop()
        self._inputs.put(AnswerEnded())
        return heard

    def _exchange(self, recorded: Samples) -> Samples:
        """In the device's thread: copies only. After an error nothing is recorded, and silence is played."""
        try:
            if not self._failed:
                played = self._playback.take(len(recorded))
                if self._inputs.qsize() >= MAX_BLOCKS:
                    raise ResourceError("this machine is too slow to listen", fix="end other programs")
                self._inputs.put((recorded, played))
                return played
        except Exception as error:  # the device's library would print it for each block
            self._fail(error)
        return np.zeros(len(recorded), np.float32)

    def _stopped(self) -> None:
        if not self._closed:
            self._fail(ResourceError("the microphone has stopped", fix="attach it and start again"))

    def _fail(self, error: BaseException) -> None:
        """Give the reader the first error; those that follow from it are not told."""
        if not self._failed:
            self._failed = True
            self._events.put(error)
            self._playback.stop()

    def _work(self) -> None:
        """In the microphone's thread."""
        try:
            while (given := self._inputs.get()) is not None:
                for one in self._listen(*given) if isinstance(given, tuple) else self._tell(given):
                    self._emit(one)
        except BaseException as error:
            self._fail(error)

    def _tell(self, given: Input) -> list[Heard]:
        self._speaking = self._speaking or isinstance(given, AnswerStarted)
        return self._listener.tell(given)

    def _listen(self, recorded: Samples, played: Samples) -> list[Heard]:
        recorded, played = self._recorded.feed(recorded), self._played.feed(played)
        heard = self._listener.feed(recorded if self._echo is None else self._echo.feed(recorded, played))
        if self._speaking and not self._playback.playing:
            self._speaking = False
            heard += self._listener.tell(AnswerEnded())
        return heard

    def _emit(self, heard: Heard) -> None:
        characters = None
        if isinstance(heard.event, SpeechStarted) and heard.event.interrupts:
            characters = self._playback.stop(heard.event.onset * self._device.sample_rate // SAMPLE_RATE)
            self._speaking = False
        self._events.put(MicrophoneEvent(heard, characters))
