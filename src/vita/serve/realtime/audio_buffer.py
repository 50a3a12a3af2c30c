"""The input audio buffer: turns by voice activity, or all audio until the client commits it."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from vita.serve.realtime.events import RealtimeError
from vita.serve.realtime.items import Pcm
from vita.serve.realtime.session import Session, TurnDetection, rate_of
from vita.speech.listener import SILENCE_KEPT, Heard, Listener, ListenerThread
from vita.speech.turns import PAUSE_MS, Clear, Commit, Input, SpeechStarted, SpeechStopped, TurnOptions
from vita.speech.vad import SAMPLE_RATE, SileroVad

MIN_COMMIT_SECONDS = 0.1  # as at OpenAI
VAD_SECONDS_KEPT = 60.0  # of audio outside of turns, for a client that commits although voice activity is on
# Without turn detection, voice activity only says where a committed turn may be trimmed. Pauses are part of it.
MANUAL = TurnOptions(silence_ms=60_000, max_turn_ms=600_000, min_speech_ms=96)


class AudioBuffer:
    """Audio of one client since the last turn.

    Args:
        session: the first settings.
        vad: voice activity.
        thread: computes it.
        max_seconds: of audio until a commit; older audio is dropped.
    """

    def __init__(self, session: Session, vad: SileroVad, thread: ListenerThread, max_seconds: float) -> None:
        self._vad, self._thread, self._max_seconds = vad, thread, max_seconds
        self._pieces: deque[Pcm] = deque()
        self._samples = 0  # in `_pieces`
        self._rate, self._detection = session.input_rate, session.turn_detection
        self._format = session.input_format
        self._seconds = 0.0  # of audio since the session began
        self._origin_ms = 0.0  # where the listener began
        self._listener = self._make_listener()

    def _make_listener(self) -> Listener:
        self._origin_ms = self._seconds * 1000
        self._heard_samples = 0  # by the listener, at the input's rate
        self._speech_start: int | None = None  # without turns: of the audio until the commit, in the listener's samples
        options = MANUAL if self._detection is None else turn_options(self._detection)
        return Listener(self._vad, options, self._rate)

    @property
    def has_turns(self) -> bool:
        """Whether turns are found by voice activity."""
        return self._detection is not None

    def configure(self, session: Session) -> None:
        """The settings have changed. Another format starts anew; other settings of voice activity apply at once."""
        detection = session.turn_detection
        if session.input_format != self._format:
            self._format, self._rate, self._detection = session.input_format, rate_of(session.input_format), detection
            self._drop()
            self._listener = self._make_listener()
        elif (detection is None) != (self._detection is None):
            self._detection = detection
            self._listener = self._make_listener()
        elif detection is not None and detection != self._detection:
            self._detection, self._listener.options = detection, turn_options(detection)

    def milliseconds(self, position: int) -> int:
        """A position of the listener, in 16-kHz samples, as time since the session began."""
        return int(self._origin_ms + position * 1000 / SAMPLE_RATE)

    async def append(self, samples: Pcm) -> list[Heard]:
        """Take the next samples, int16 `[n]` at the input's rate; what was heard in them."""
        self._pieces.append(samples)
        self._samples += len(samples)
        self._seconds += len(samples) / self._rate
        limit = VAD_SECONDS_KEPT if self.has_turns else self._max_seconds
        while len(self._pieces) > 1 and self._samples - len(self._pieces[0]) > limit * self._rate:
            self._samples -= len(self._pieces.popleft())
        heard: list[Heard] = []
        for start in range(0, len(samples), self._rate):  # second by second: other sessions share the thread
            piece = samples[start : start + self._rate].astype(np.float32) / np.float32(32_768)
            heard += await self._wait(self._thread.feed(self._listener, piece))
        self._heard_samples += len(samples)
        return heard

    async def tell(self, given: Input) -> list[Heard]:
        """Tell the listener something; the events that follow."""
        return await self._wait(self._thread.tell(self._listener, given))

    async def _wait(self, future: Future[list[Heard]]) -> list[Heard]:
        heard = await asyncio.wrap_future(future)
        if not self.has_turns:
            starts = [one.event.start for one in heard if isinstance(one.event, SpeechStarted)]
            if starts and self._speech_start is None:
                self._speech_start = starts[0]
            return []
        if any(isinstance(one.event, SpeechStopped) for one in heard):
            self._drop()
        return heard

    async def commit(self) -> tuple[Pcm, int]:
        """End the turn: its audio, int16 `[n]`, and its rate. Silence before and after its speech is left out.

        Raises:
            RealtimeError: less than 100 ms.
        """
        if self._samples < MIN_COMMIT_SECONDS * self._rate:
            seconds = self._samples / self._rate
            raise RealtimeError(
                f"The buffer holds {seconds * 1000:.0f} ms of audio; a commit needs"
                f" {MIN_COMMIT_SECONDS * 1000:.0f} ms at least.", "input_audio_buffer_commit_empty",
            )  # fmt: skip
        samples, rate = np.concatenate(list(self._pieces)), self._rate
        if self.has_turns:
            for heard in await self.tell(Commit()):
                if isinstance(heard.event, SpeechStopped) and heard.audio is not None:
                    samples, rate = to_pcm(heard.audio), SAMPLE_RATE
        else:
            samples = await self._trimmed(samples)
        self._drop()
        return samples, rate

    async def _trimmed(self, samples: Pcm) -> Pcm:
        """The audio of a turn without the silence around its speech; all of it if no speech is found."""
        start, speech_end = self._speech_start, self._listener.state.speech_end
        await self.tell(Commit())
        if start is None:
            return samples
        first = self._heard_samples - len(samples)  # position of the first sample, at the input's rate

        def index(position: int) -> int:
            return max(0, position * self._rate // SAMPLE_RATE - first)

        return samples[index(start) : index(speech_end + SILENCE_KEPT)]

    async def clear(self) -> None:
        """Forget all audio so far."""
        self._drop()
        await self.tell(Clear())

    def _drop(self) -> None:
        self._pieces.clear()
        self._samples = 0
        self._speech_start = None


def turn_options(detection: TurnDetection) -> TurnOptions:
    """OpenAI's settings as ours."""
    if detection.type == "semantic_vad":
        return TurnOptions.semantic(
            detection.eagerness, create_response=detection.create_response,
            interrupt_response=detection.interrupt_response,
        )  # fmt: skip
    return TurnOptions(
        threshold=detection.threshold, prefix_padding_ms=detection.prefix_padding_ms,
        silence_ms=detection.silence_duration_ms, ask_after_ms=(PAUSE_MS,), idle_timeout_ms=detection.idle_timeout_ms,
        create_response=detection.create_response, interrupt_response=detection.interrupt_response,
    )  # fmt: skip


def to_pcm(samples: NDArray[np.float32]) -> Pcm:
    """Samples in -1..1 as PCM16."""
    pcm: Pcm = np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype(np.int16)
    return pcm
