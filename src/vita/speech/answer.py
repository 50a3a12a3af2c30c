"""Speak a running answer: its handle's events with `SpeechChunk`s among them.

Two threads beside the engine's: one passes events on and feeds the text to a stream, one a spoken answer makes the
audio. Both wait while the reader is behind, and with them the sequence in the engine.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from vita.engine.handle import EventQueue, Handle
from vita.engine.sampler import check_params
from vita.errors import SpeechError, VitaError
from vita.events import Done, Event, Started, TextDelta
from vita.speech.stream import Computing, SpeechStream, stream_for
from vita.speech.voice import Voice
from vita.types import SamplingParams, SpeechOptions

MAX_EVENTS = 64  # unread events, up to 15 s of audio
Speaker = Callable[[Handle], Handle]  # from a handle that nobody has read to one that also speaks
EXIT_SECONDS = 5.0  # that the end of the process waits for a clause to end


def open_speaker(
    options: SpeechOptions, params: SamplingParams | None, voice: Voice | None,
    computing: Computing = contextlib.nullcontext,
) -> Speaker:  # fmt: skip
    """A function that speaks the answers of one request, whose voices are open.

    Args:
        options: how they are spoken.
        params: of the request.
        voice: the checkpoint's own, if it has one and it may be meant.
        computing: see `SpeechStream`.

    Raises:
        RequestError: there is no such voice, or a parameter is wrong. ResourceError: no voice is installed.
    """
    if params is not None:
        check_params(params)
    count = params.n if params else 1
    streams = [stream_for(options, voice, index=index, computing=computing) for index in range(count)]
    return lambda handle: speak_answers(handle, streams)


def speak_answers(inner: Handle, streams: Sequence[SpeechStream]) -> Handle:
    """A handle with the same events and the speech of each answer. `Done` follows its last chunk.

    Args:
        inner: of a submitted request that nobody has read.
        streams: new ones, for each answer of the request. Where one fails, the text is given out whole; then the handle
            raises `SpeechError` in place of the last `Done`.
    """
    speaker = _Speaker(inner, streams)
    speaker.start()
    return Handle(
        speaker.events, speaker.cancel, len(streams), owner=inner, request=inner.request, usage=inner.usage_so_far
    )


class _Speaker:
    """What the threads share."""

    def __init__(self, inner: Handle, streams: Sequence[SpeechStream]) -> None:
        self._inner, self._streams = inner, dict(enumerate(streams))
        self._changed = threading.Condition()
        self._cancelled = False
        self._start = time.monotonic()
        self._done: dict[int, Done] = {}  # waits for the end of the speech
        self._unfinished = len(streams)  # answers whose `Done` the reader does not have
        self._error: Exception | None = None  # the first of a voice
        self.events = EventQueue(self._wake, max_events=MAX_EVENTS)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def start(self) -> None:
        """Start the threads."""
        threading.Thread(target=self._pass_on, name="vita-speech-text", daemon=True).start()
        for index in self._streams:
            threading.Thread(target=self._run, args=(index,), name="vita-speech", daemon=True).start()

    def _run(self, index: int) -> None:
        """The thread of one answer's speech. It ends before the interpreter does: a daemon thread that returns from C++
        after that would abort the process."""
        end = functools.partial(self._end_at_exit, threading.current_thread())
        atexit.register(end)
        try:
            self._speak(index)
        finally:
            atexit.unregister(end)

    def _end_at_exit(self, thread: threading.Thread) -> None:
        self.cancel()
        thread.join(EXIT_SECONDS)

    def cancel(self) -> None:
        """Stop the answer and its speech. May be called from any thread."""
        self._cancelled = True
        self._inner.cancel()
        for stream in self._streams.values():
            stream.cancel()
        self._wake()

    def _put(self, event: Event | SpeechError) -> None:
        """Give an event to the reader, once it is not behind."""
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled or not self.events.full)
        self.events.put(event)

    def _fail(self, error: BaseException) -> None:
        self.events.put(error)
        self.cancel()

    def _pass_on(self) -> None:
        """Events of the answer; text is also fed to the speech."""
        try:
            for event in self._inner:
                stream = self._streams.get(event.index)
                if isinstance(event, Started) and event.state == "noise" and stream is not None:
                    stream.cancel()  # what follows is not meant to be heard
                if isinstance(event, Done) and stream is not None:
                    self._done[event.index] = event
                    stream.finish()
                    continue
                if isinstance(event, TextDelta) and stream is not None:
                    stream.feed(event.text)
                self._put(event)
        except BaseException as error:
            self._fail(error)
        finally:
            for stream in self._streams.values():
                stream.finish()

    def _speak(self, index: int) -> None:
        """Chunks of one answer, then its `Done`."""
        stream, first, failed = self._streams[index], 0.0, False
        try:
            stream.prepare()
            for chunk in stream:
                first = first or time.monotonic() - self._start
                if self._cancelled:
                    break
                self._put(chunk)
        except Exception as error:
            failed, self._error = True, self._error or error
        except BaseException as error:
            self._fail(error)
            return
        finally:
            stream.close()
        stream.wait_finished()
        done = self._done.get(index)
        if done is not None:
            metrics = stream.metrics
            timings = replace(done.timings, speech=metrics.compute, first_audio=first, speech_seconds=metrics.audio)
            self._end(replace(done, timings=timings, notes=(*done.notes, *_notes(stream, failed=failed))))

    def _end(self, done: Done) -> None:
        """The end of an answer: its `Done`, or the error if it is the last of a request whose speech failed."""
        with self._changed:
            self._unfinished -= 1
            last = not self._unfinished
        self._put(_speech_error(self._error, done) if last and self._error is not None else done)


def _speech_error(error: Exception, done: Done) -> SpeechError:
    if isinstance(error, VitaError):
        found = SpeechError(error.what, where=error.where, fix=error.fix, done=done)
    else:
        found = SpeechError(f"the answer cannot be spoken ({type(error).__name__}: {error})", done=done)
    found.__cause__ = error
    return found


def _notes(stream: SpeechStream, *, failed: bool) -> list[str]:
    """What the listener did not hear."""
    if failed:
        return ["the answer was not spoken to its end: the voice has failed"]
    languages = ", ".join(sorted(set(stream.unspoken)))
    return [f"parts of the answer in {languages} were not spoken: the voice does not speak it"] if languages else []
