"""Sound devices for tests: a loudspeaker, and a room with an echo and a user who speaks when something happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vita.speech.vad import FRAME, SAMPLE_RATE, SileroVad, VadState

Samples = NDArray[np.float32]
WAIT = 30.0  # seconds, before a test gives up
LAG = 4 * FRAME  # samples at 16 kHz that resamplers and blocks may hold back


class CountingVad(SileroVad):
    """Tells how far the computation is, so that the device waits for it however busy the machine is."""

    def __init__(self, vad: SileroVad) -> None:
        self.__dict__.update(vad.__dict__)
        self.frames = 0
        self.moved = threading.Condition()

    def probability(self, frame: Samples, state: VadState) -> tuple[float, VadState]:
        result = super().probability(frame, state)
        with self.moved:
            self.frames += 1
            self.moved.notify_all()
        return result


def echo_of(seconds: float = 0.12, delay: float = 0.03, rate: int = SAMPLE_RATE) -> Samples:
    """The response of a room: a direct sound, then reflections that die away."""
    length = int(seconds * rate)
    response = np.random.default_rng(0).standard_normal(length) * np.exp(-6.9 * np.arange(length) / length) * 0.1
    response[0] = 0.7
    return np.concatenate([np.zeros(int(delay * rate)), response]).astype(np.float32)


@dataclass
class Room:
    """A `DuplexDevice`. It runs in a thread as fast as voice activity is computed.

    Attributes:
        vad: of the microphone under test.
        script: what the user does: waits until the answer has played for so many seconds (0: at once) or something
            is so, then says this.
        echo: response of the room; None: headphones.
        tail: seconds of silence after the script.
        played, recorded: blocks of 10 ms so far.
    """

    vad: CountingVad
    script: list[tuple[float | Callable[[], bool], Samples]]
    echo: Samples | None = None
    sample_rate: int = 48_000
    tail: float = 1.5
    played: list[Samples] = field(default_factory=list)
    recorded: list[Samples] = field(default_factory=list)
    error: BaseException | None = None
    unplugged: bool = False

    def start(self, exchange: Callable[[Samples], Samples], stopped: Callable[[], None]) -> None:
        self._exchange, self._stopped, self._closed = exchange, stopped, threading.Event()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def wait(self) -> None:
        """Until the script and the tail are over."""
        assert self._finished.wait(WAIT)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            for condition, said in self.script:
                self._wait_for(condition)
                for at in range(0, len(said), self.sample_rate // 100):
                    self._block(said[at : at + self.sample_rate // 100])
            for _ in range(int(self.tail * 100)):
                self._block(None)
            self._finished.set()
            if self.unplugged:
                self._stopped()
                return
            while not self._closed.is_set():
                self._block(None)
                self._closed.wait(0.001)
        except BaseException as error:
            self.error = error
            self._finished.set()

    def _wait_for(self, condition: float | Callable[[], bool]) -> None:
        heard, deadline = 0, time.monotonic() + WAIT
        while not self._closed.is_set():
            assert time.monotonic() < deadline, "the user waits for something that does not happen"
            if condition() if callable(condition) else heard >= condition * self.sample_rate:
                return
            heard += int(np.count_nonzero(self._block(None)) > 0) * (self.sample_rate // 100)
            if callable(condition):
                self._closed.wait(0.002)

    def finished(self) -> bool:
        """Whether the script and the tail are over."""
        return self._finished.is_set()

    def _block(self, said: Samples | None) -> Samples:
        """One block of 10 ms: returns what was played."""
        size = self.sample_rate // 100
        recorded = np.zeros(size, np.float32)
        if said is not None:
            recorded[: len(said)] = said
        if self.echo is not None:
            past = np.concatenate([np.zeros(len(self.echo), np.float32), *self.played[-(len(self.echo) // size + 2) :]])
            recorded += np.convolve(past[-len(self.echo) - size :], self.echo)[len(self.echo) : len(self.echo) + size]
        self.recorded.append(recorded)
        played = self._exchange(recorded)
        self.played.append(played)
        done = len(self.played) * size * SAMPLE_RATE // self.sample_rate - LAG
        with self.vad.moved:
            assert self.vad.moved.wait_for(lambda: self.vad.frames * FRAME >= done or self._closed.is_set(), WAIT)
        return played


class Loudspeaker:
    """An `OutputDevice` that plays as much as a test lets it.

    Args:
        limit: samples that it takes before `write` blocks; None: all at once.
        latency: seconds from `write` until the audio is heard.
    """

    def __init__(self, limit: int | None = None, latency: float = 0.0) -> None:
        self.limit, self.latency = limit, latency
        self.played: list[Samples] = []
        self.ended = ""
        self.closed = False
        self.blocked = threading.Event()  # set once the limit is reached
        self._go_on = threading.Event()

    @property
    def samples(self) -> int:
        return sum(map(len, self.played))

    def write(self, samples: Samples) -> None:
        assert samples.ndim == 2 and samples.shape[1] == 1 and samples.dtype == np.float32 and not self.closed
        if self.limit is not None and self.samples + len(samples) > self.limit:
            self.blocked.set()
            assert self._go_on.wait(WAIT)
        self.played.append(samples[:, 0])

    def go_on(self) -> None:
        """What waits and what follows is played."""
        self.limit = None
        self._go_on.set()

    def stop(self) -> None:
        self.ended = "stopped"

    def abort(self) -> None:
        self.ended = "aborted"

    def close(self) -> None:
        self.closed = True
