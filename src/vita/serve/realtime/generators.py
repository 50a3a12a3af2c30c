"""What a realtime session asks of the engine: answers, also ahead of the end of a turn, transcripts, camera frames."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from vita.errors import DownloadError, MediaError, VitaError
from vita.events import Done, SpeechChunk, Started, TextDelta, Usage
from vita.serve.audio_out import audio_tokens, chunks_of
from vita.serve.auth import Tenant
from vita.serve.errors import ApiError, as_api_error
from vita.serve.realtime.audio_buffer import AudioBuffer
from vita.serve.realtime.dialogue import Dialogue, Job
from vita.serve.realtime.early_answer import EarlyAnswer
from vita.serve.realtime.events import INVALID, SERVER, Event
from vita.serve.realtime.items import Item, Pcm, spoken_item
from vita.serve.realtime.outbox import Outbox
from vita.serve.realtime.session import Session
from vita.serve.server import Server
from vita.serve.sse import DELTA_SECONDS
from vita.serve.transcribe import submit_transcription, transcript_deltas
from vita.speech.turns import AnswerEnded, AnswerStarted, Input
from vita.types import Audio, Message, SamplingParams, SpeechOptions

if TYPE_CHECKING:
    from vita.engine.handle import Handle

log = logging.getLogger("vita.serve")
TRANSCRIPT_PRIORITY, FRAME_PRIORITY = 10, 20  # answers have 0
PROBE = SamplingParams(max_tokens=1)  # the rest of the answer is not wanted


class Generators:
    """The `Port` of a dialogue. Work runs as tasks of the connection's group.

    Args:
        server: has the engine.
        tenant: who asks.
        outbox: of the connection.
        buffer: told when the settings of the input change.
        tell: tells the listener something.
    """

    dialogue: Dialogue
    group: TaskGroup

    def __init__(
        self, server: Server, tenant: Tenant, outbox: Outbox, buffer: AudioBuffer, tell: Callable[[Input], None]
    ) -> None:
        self._server, self._tenant, self._outbox, self._buffer, self._tell = server, tenant, outbox, buffer, tell
        self._number = 0  # of the generator that runs; 0: none
        self._answer: Handle | None = None
        self._early: EarlyAnswer | None = None  # to the turn that goes on
        self._next: EarlyAnswer | None = None  # to the turn that has ended
        self._frame: Item | None = None  # the newest that waits to be encoded
        self._encoding = False

    # The port.

    def send(self, event: Event) -> None:
        """Send a server event."""
        self._outbox.put(event)

    def start(self, job: Job) -> None:
        """Start an answer."""
        self._number, self._answer = job.number, None
        self._run(self._generate, job)

    def stop(self) -> Usage:
        """Cancel the answer; what it has used so far."""
        handle, self._answer, self._number = self._answer, None, 0
        if handle is None:
            return Usage()
        handle.cancel()
        return handle.usage_so_far()

    def transcribe(self, item: Item) -> None:
        """Write down a spoken item, at low priority; the engine encodes its audio once for this and the answer."""
        self._run(self._transcribe, item)

    def encode(self, item: Item) -> None:
        """Encode a camera frame at lowest priority; while one is encoded only the newest waits."""
        self._frame = item
        if not self._encoding:
            self._encoding = True
            self._run(self._encode_frames)

    def configure(self, session: Session) -> None:
        """The settings of the input have changed."""
        self._buffer.configure(session)

    # More of the connection's.

    def turn_paused(self, audio: Pcm, rate: int) -> None:
        """A turn has paused: answer it ahead. Later pauses of the same silence change nothing."""
        if self._early is not None:
            return
        session, conversation = self.dialogue.session, self.dialogue.conversation
        messages = conversation.messages(session.instructions, [*conversation, spoken_item("pause", audio, rate)])
        wanted = session.answers_turns
        submit = self._submit if wanted else self._submit_probe
        self._early = EarlyAnswer(Job(0, messages, session), submit, self._tell, wanted=wanted)
        self._run(self._early.run)

    def ask(self, complete: Input, noise: Input) -> None:
        """Ask for the response state of the turn that has paused, and tell the listener."""
        if self._early is not None:
            self._early.ask(complete, noise)

    def turn_dropped(self) -> None:
        """The speech goes on, or the turn that had paused is not answered."""
        if self._early is not None:
            self._early.drop()
            self._early = None

    def turn_ended(self) -> None:
        """The turn has ended, where it had paused or later."""
        if self._next is not None:
            self._next.drop()
        if self._early is not None:
            self._early.end_turn()
        self._next, self._early = self._early, None

    def close(self) -> None:
        """The client is gone."""
        for early in (self._early, self._next):
            if early is not None:
                early.drop()
        if self._answer is not None:
            self._answer.cancel()

    def _run(self, function: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        self.group.start_soon(function, *args)

    # The tasks.

    async def _generate(self, job: Job) -> None:
        """One answer, reported to the dialogue as it comes."""
        number = job.number
        try:
            with self._server.admit():
                if job.aloud is not None:
                    await self._read_aloud(job, job.aloud)
                else:
                    await self._answer_prompt(job)
        except Exception as error:
            self._failed(number, error)
        await self._played(number)

    async def _answer_prompt(self, job: Job) -> None:
        dialogue, number, began = self.dialogue, job.number, time.monotonic()
        early, self._next = self._next, None
        handle = await early.take(job) if early is not None else None
        if handle is None:
            handle = await self._submit(job)
        if self._number != number:
            handle.cancel()
            return
        self._answer = handle
        self._server.log_asked(job.messages)
        async for event in handle.coalesced(DELTA_SECONDS):
            await self._outbox.wait_drained()
            if isinstance(event, Started):
                if self._has_idle_timeout:
                    self._tell(AnswerStarted())
                dialogue.answer_started(number, noise=event.state == "noise")
            elif isinstance(event, TextDelta):
                dialogue.answer_text(number, event.text)
            elif isinstance(event, SpeechChunk):
                if began:
                    self._server.metrics.first_audio(time.monotonic() - began)
                    began = 0.0
                dialogue.answer_audio(number, event)
            elif isinstance(event, Done):
                self._ended(number, event)

    async def _read_aloud(self, job: Job, text: str) -> None:
        """Speak a text as it stands: the model is not asked."""
        dialogue, number, session, server = self.dialogue, job.number, job.session, self._server
        voice, speed = session.voice or None, session.speed
        stream = await server.in_speech_thread(lambda: server.model.speak(text, voice=voice, speed=speed))
        samples = 0
        dialogue.answer_started(number, noise=False)
        dialogue.answer_text(number, text)
        chunks = chunks_of(stream, server.speech_threads)
        try:
            async for chunk in chunks:
                if self._number != number:
                    return
                await self._outbox.wait_drained()
                samples += len(chunk.samples)
                dialogue.answer_audio(number, chunk)
        finally:
            await chunks.aclose()
        self._number = 0
        dialogue.answer_ended(number, Usage(completion_tokens=audio_tokens(samples)), full=False)

    async def _submit_probe(self, job: Job) -> Handle:
        return self._server.submit(job.messages, PROBE, self._tenant)

    async def _submit(self, job: Job) -> Handle:
        # Where a voice has to be found, that is file work.
        return await self._server.in_speech_thread(lambda: self._submit_now(job))

    def _submit_now(self, job: Job) -> Handle:
        session, limits = job.session, self._server.options.limits
        params = SamplingParams(
            max_tokens=min(session.max_output_tokens or limits.tokens, limits.tokens),
            temperature=session.temperature or 0.0,
        )
        speech = None
        if session.modality == "audio":
            speech = SpeechOptions(voice=session.voice or None, speed=session.speed)
        return self._server.submit(job.messages, params, self._tenant, speech=speech)

    def _ended(self, number: int, done: Done) -> None:
        if self._number == number:
            self._number, self._answer = 0, None
        self._server.metrics.answered(done)
        if self.dialogue.response is not None and self.dialogue.state.number == number:
            self._server.log_answered(self.dialogue.response.text)
        if done.finish_reason == "cancelled":  # not by the client: its number would be old, and this ignored
            self.dialogue.answer_failed(number, SERVER, "timeout", "The response took too long.")
        else:
            self.dialogue.answer_ended(number, done.usage, full=done.finish_reason == "length")

    def _failed(self, number: int, error: Exception) -> None:
        found = as_api_error(error)
        if not isinstance(error, (VitaError, ApiError)):
            log.error("a realtime response failed", exc_info=error)
        if self._number == number:
            self._number, self._answer = 0, None
        kind = found.type if found.type == SERVER else INVALID
        if isinstance(error, (MediaError, DownloadError)):
            self.dialogue.media_failed(number)
        self.dialogue.answer_failed(number, kind, found.code, found.message)

    @property
    def _has_idle_timeout(self) -> bool:
        detection = self.dialogue.session.turn_detection
        return detection is not None and detection.idle_timeout_ms is not None

    async def _played(self, number: int) -> None:
        """Tell the listener when the answer must have been played to its end: from then on silence counts."""
        response = self.dialogue.response
        if response is None or not self._has_idle_timeout:
            return
        await anyio.sleep(response.seconds_left)
        if self.dialogue.state.number == number:
            self._tell(AnswerEnded())

    async def _transcribe(self, item: Item) -> None:
        transcripts, ended = self.dialogue.transcripts, list[Done]()
        try:
            audio = item.content[0].as_part()
            if not isinstance(audio, Audio):
                transcripts.completed(item)
                return
            handle = submit_transcription(self._server, audio, self._tenant, priority=TRANSCRIPT_PRIORITY)
            async for text in transcript_deltas(self._server, handle, ended):
                if not transcripts.is_open(item):
                    handle.cancel()
                    return
                transcripts.delta(item, text)
            transcripts.completed(item)
        except Exception as error:
            found = as_api_error(error)
            if not isinstance(error, (VitaError, ApiError)):
                log.error("a transcription failed", exc_info=error)
            transcripts.failed(item, found.type, found.code, found.message)

    async def _encode_frames(self) -> None:
        while self._frame is not None:
            item, self._frame = self._frame, None
            image = item.content[0].image
            if image is None:
                continue
            try:
                frame = [Message("user", (image,))]
                handle = self._server.submit(frame, PROBE, self._tenant, priority=FRAME_PRIORITY)
                await handle.started()
                handle.cancel()  # a model that reasons would go on
            except MediaError as error:
                # One damaged frame must not spoil every later answer.
                item.content[0].image = None
                log.info("a camera frame is left out: %s", error)
            except (VitaError, ApiError) as error:
                log.info("a camera frame is not encoded ahead: %s", error)
        self._encoding = False
