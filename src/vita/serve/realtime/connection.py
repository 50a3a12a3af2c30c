"""One realtime WebSocket: reader, turns, generator and writer as tasks around a `Dialogue`.

The reader hands client events to the turns task, which takes them in order, computes voice activity, and tells the
dialogue. A cancel does not wait there: the reader carries it out at once. Each response is generated in a task of its
own, and everything is sent by the writer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from vita.serve.auth import Tenant
from vita.serve.body import check_json
from vita.serve.errors import ApiError
from vita.serve.realtime.audio_buffer import AudioBuffer, to_pcm
from vita.serve.realtime.codec import decode_audio
from vita.serve.realtime.dialogue import Dialogue
from vita.serve.realtime.events import ClientEvent, RealtimeError, error_event, parse_event
from vita.serve.realtime.generators import Generators
from vita.serve.realtime.outbox import Outbox
from vita.serve.realtime.session import Session
from vita.serve.server import Server
from vita.speech.listener import Heard, ListenerThread
from vita.speech.turns import (
    IdleTimeout,
    Input,
    Noise,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TurnComplete,
    TurnPaused,
    ms_of,
)
from vita.speech.vad import SAMPLE_RATE, SileroVad

log = logging.getLogger("vita.serve")
MAX_QUEUED = 32 << 20  # characters of client events that wait for the turns task
SESSION_SECONDS = 3600  # as at OpenAI
# A pause of so much silence in semantic mode is the end of a turn that the model takes for a question. "low" waits for
# the whole silence.
SURE_AFTER_MS = {"high": 640, "medium": 1_280, "auto": 1_280}


class Socket(Protocol):
    """A WebSocket: text messages."""

    async def receive(self) -> str | None:
        """The next text message; None once it is closed. A binary message is empty text."""
        ...

    async def send(self, text: str) -> None: ...


class Connection:
    """A client.

    Args:
        socket: accepted.
        server: answers.
        tenant: who connected.
        session: the first settings.
        vad, thread: voice activity.
        beta: the client speaks the beta dialect.
    """

    def __init__(
        self, socket: Socket, server: Server, tenant: Tenant, session: Session, vad: SileroVad,
        thread: ListenerThread, *, beta: bool = False,
    ) -> None:  # fmt: skip
        limits = server.options.limits
        self._socket, self._server = socket, server
        self._outbox = Outbox(self._send, beta=beta)
        self._buffer = AudioBuffer(session, vad, thread, limits.audio_seconds)
        self._generators = Generators(server, tenant, self._outbox, self._buffer, self.tell)
        self.dialogue = Dialogue(session, self._generators, limits, allow_urls=server.allow_urls)
        self._generators.dialogue = self.dialogue
        self._inbox: deque[ClientEvent | Input] = deque()
        self._queued = 0  # characters in the inbox
        self._creates = 0  # response.create in the inbox
        self._arrived, self._taken = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Serve until the client closes, or the session expires."""
        try:
            async with anyio.create_task_group() as group:
                self._generators.group = group
                self.dialogue.open()
                group.start_soon(self._outbox.run)
                group.start_soon(self._turns)
                group.start_soon(self._expire, group)
                await self._read()
                group.cancel_scope.cancel()
        finally:
            self.dialogue.close()
            self._generators.close()

    async def _expire(self, group: TaskGroup) -> None:
        await anyio.sleep(SESSION_SECONDS)
        await self._send_last(RealtimeError("The session has reached its end.", "session_expired"))
        group.cancel_scope.cancel()

    async def _send_last(self, error: RealtimeError) -> None:
        self._outbox.put(error_event(error, None))
        await asyncio.sleep(0.1)

    async def _send(self, text: str) -> None:
        with anyio.move_on_after(self._server.options.limits.idle_seconds) as timer:
            await self._socket.send(text)
        if timer.cancelled_caught:
            log.info("a realtime client does not read; its connection is closed")
            self._generators.group.cancel_scope.cancel()

    # The reader.

    async def _read(self) -> None:
        while (text := await self._socket.receive()) is not None:
            event, event_id = self._parse(text)
            if isinstance(event, RealtimeError):
                self.dialogue.refuse(event, event_id)
            elif event.type == "response.cancel" and not self._creates:
                self.dialogue.handle(event)
            else:
                self._creates += event.type == "response.create"
                self._queued += len(text)
                self._inbox.append(event)
                self._arrived.set()
                while self._queued > MAX_QUEUED:  # the client sends faster than voice activity is computed
                    self._taken.clear()
                    await self._taken.wait()
            await self._outbox.wait_read()

    def _parse(self, text: str) -> tuple[ClientEvent | RealtimeError, str | None]:
        try:
            check_json(text.encode("utf-8", "replace"), self._server.options.limits)
        except ApiError as error:
            return RealtimeError(error.message, "invalid_json"), None
        return parse_event(text)

    def tell(self, given: Input) -> None:
        """Tell the listener something, behind the audio that has arrived."""
        self._inbox.append(given)
        self._arrived.set()

    # The turns task.

    async def _turns(self) -> None:
        while True:
            while self._inbox:
                given = self._inbox.popleft()
                if isinstance(given, ClientEvent):
                    await self._client_event(given)
                    self._creates -= given.type == "response.create"
                else:
                    self._hear(await self._buffer.tell(given))
                if not self._inbox:
                    self._queued = 0
                    self._taken.set()
                await self._outbox.wait_read()
                await asyncio.sleep(0)  # many small events must not hold up other clients
            self._arrived.clear()
            await self._arrived.wait()

    async def _client_event(self, event: ClientEvent) -> None:
        try:
            if event.type == "input_audio_buffer.append":
                samples = decode_audio(str(event.body["audio"]), self.dialogue.session.input_format)
                self._hear(await self._buffer.append(samples))
            elif event.type == "input_audio_buffer.commit":
                audio, rate = await self._buffer.commit()
                self._generators.turn_ended()
                self.dialogue.commit(audio, rate)
            elif event.type == "input_audio_buffer.clear":
                await self._buffer.clear()
                self._generators.turn_dropped()
                self.dialogue.cleared()
            else:
                self.dialogue.handle(event)
        except RealtimeError as error:
            self.dialogue.refuse(error, event.event_id)

    def _hear(self, found: list[Heard]) -> None:
        for heard in found:
            event, ms = heard.event, self._buffer.milliseconds
            if isinstance(event, SpeechStarted):
                self._generators.turn_dropped()  # of before a change of the settings
                self.dialogue.speech_started(ms(event.start))
            elif isinstance(event, TurnPaused):
                self._paused(event, heard)
            elif isinstance(event, SpeechResumed):
                self._generators.turn_dropped()
            elif isinstance(event, SpeechStopped):
                self._stopped(event, heard)
            elif isinstance(event, IdleTimeout):
                self.dialogue.idle_timeout(ms(event.start), ms(event.end))

    def _paused(self, event: TurnPaused, heard: Heard) -> None:
        """The turn is answered ahead; in semantic mode the model is asked once whether it is a question to it."""
        if self.dialogue.session.kind != "realtime" or heard.audio is None:
            return
        self._generators.turn_paused(to_pcm(heard.audio), SAMPLE_RATE)
        detection = self.dialogue.session.turn_detection
        needed = None if detection is None else SURE_AFTER_MS.get(detection.eagerness)  # longer than server_vad's pause
        if needed is not None and ms_of(event.end - event.speech_end) >= needed:
            self._generators.ask(TurnComplete(event.turn_id, event.speech_end), Noise(event.turn_id))

    def _stopped(self, event: SpeechStopped, heard: Heard) -> None:
        if event.reason == "noise":
            self._generators.turn_dropped()
        else:
            self._generators.turn_ended()
        assert heard.audio is not None
        self.dialogue.speech_stopped(
            self._buffer.milliseconds(event.end), to_pcm(heard.audio), SAMPLE_RATE, noise=event.reason == "noise"
        )
