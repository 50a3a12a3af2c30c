"""One realtime session without its I/O: client events and speech in, server events and work for the engine out.

Everything runs in one thread and returns at once. `turn_machine` decides; this module carries its actions out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vita.events import SpeechChunk, Usage
from vita.runtime.clock import Clock
from vita.serve.errors import JSON
from vita.serve.options import Limits
from vita.serve.parts import Reader
from vita.serve.realtime.conversation import Conversation
from vita.serve.realtime.dialect import client_event_to_ga
from vita.serve.realtime.events import (
    SERVER,
    ClientEvent,
    Event,
    Object,
    RealtimeError,
    check_id,
    error_event,
    make_event,
    mapping,
    new_id,
)
from vita.serve.realtime.items import Item, Pcm, read_item, spoken_item
from vita.serve.realtime.response import Response
from vita.serve.realtime.session import Session
from vita.serve.realtime.transcripts import Transcripts
from vita.serve.realtime.turn_machine import Action, Input, State, step
from vita.serve.realtime.wish import Wish, read_wish, text_to_read
from vita.types import Message


@dataclass(frozen=True)
class Job:
    """A response that the engine is to generate.

    Attributes:
        number: by which the generator's reports are told from those of older ones.
        messages: the prompt.
        session: modality, voice, speed and limits.
        aloud: a text that is only to be read aloud; None: the prompt is to be answered.
    """

    number: int
    messages: tuple[Message, ...]
    session: Session
    aloud: str | None = None


class Port(Protocol):
    """What a dialogue needs of the connection. Nothing blocks, and nothing reports back before it returns."""

    def send(self, event: Event) -> None:
        """Send a server event, GA."""

    def start(self, job: Job) -> None:
        """Start a generator; it reports by the dialogue's `answer_` methods."""

    def stop(self) -> Usage:
        """Cancel the generator, whose events are not reported any more; what it has used so far."""
        ...

    def transcribe(self, item: Item) -> None:
        """Start the transcription of a spoken item; it reports by `Dialogue.transcripts`."""

    def encode(self, item: Item) -> None:
        """Encode the image of a camera frame ahead of its question."""

    def configure(self, session: Session) -> None:
        """The settings of the input have changed."""


class Dialogue:
    """A session: settings, conversation, and the response that is in progress.

    Args:
        session: the first settings.
        port: see `Port`.
        limits: of the server.
        allow_urls: whether images may be named by http(s) URLs.
        clock: seconds, monotonic.
    """

    def __init__(
        self, session: Session, port: Port, limits: Limits, *, allow_urls: bool = False, clock: Clock = time.monotonic
    ) -> None:
        self.session, self.state, self.conversation = session, State(), Conversation()
        self.response: Response | None = None  # the newest
        self.transcripts = Transcripts(port.send)
        self._port, self._limits, self._allow_urls, self._clock = port, limits, allow_urls, clock
        self._conversation_id = new_id("conv")
        self._wish: Wish | None = None  # of the response that the client asks for
        self._turn_id: str | None = None  # of the user's item that is being spoken
        self._usage = Usage()
        self._failure: dict[str, JSON] | None = None
        self._handlers: dict[str, Callable[[Object], None]] = {
            "session.update": self._update,
            "conversation.item.create": self._create_item,
            "conversation.item.delete": self._delete_item,
            "conversation.item.truncate": self._truncate_item,
            "conversation.item.retrieve": self._retrieve_item,
            "response.create": self._create_response,
            "response.cancel": self._cancel_response,
            "output_audio_buffer.clear": self._clear_output,
        }

    def open(self) -> None:
        """The first event."""
        self._port.send(make_event("session.created", session=self.session.as_json()))

    def handle(self, event: ClientEvent) -> None:
        """A client's event other than those of the audio buffer; an error is sent as an event."""
        body = client_event_to_ga(event.body)
        try:
            self._handlers[str(body["type"])](body)
        except RealtimeError as error:
            self.refuse(error, event.event_id)

    def refuse(self, error: RealtimeError, event_id: str | None) -> None:
        """Send an error event."""
        self._port.send(error_event(error, event_id))

    def close(self) -> None:
        """The client is gone."""
        self._step(Input.CLOSED)
        self.transcripts.close()

    # Client events.

    def _update(self, body: Object) -> None:
        before = self.session
        self.session = before.merge(mapping(body["session"], "session"))
        self._port.send(make_event("session.updated", session=self.session.as_json()))
        if self.session.turn_detection is None and self.state.hearing:
            self._turn_id = None
            self._step(Input.TURN_DROPPED)
        self._port.configure(self.session)

    def _create_item(self, body: Object) -> None:
        item = self._read_item(mapping(body["item"], "item"), "item")
        anchor = body.get("previous_item_id")
        previous = self.conversation.add(item, None if anchor is None else check_id(anchor, "previous_item_id"))
        self._added(item, previous)
        if item.is_frame:
            self._port.encode(item)

    def _read_item(self, given: Object, where: str) -> Item:
        reader = Reader(self._limits, allow_urls=self._allow_urls)
        return read_item(given, reader, self.session.input_format, where)

    def _added(self, item: Item, previous: str | None) -> None:
        for kind in ("conversation.item.added", "conversation.item.done"):
            self._port.send(make_event(kind, previous_item_id=previous, item=item.as_json()))

    def _delete_item(self, body: Object) -> None:
        item_id = str(body["item_id"])
        self.conversation.delete(item_id)
        self._port.send(make_event("conversation.item.deleted", item_id=item_id))

    def _truncate_item(self, body: Object) -> None:
        end = body["audio_end_ms"]
        assert isinstance(end, int)  # checked by parse_event
        self.conversation.truncate(str(body["item_id"]), end)
        index = body.get("content_index")
        self._port.send(
            make_event(
                "conversation.item.truncated", item_id=body["item_id"], audio_end_ms=end,
                content_index=index if isinstance(index, int) else 0,
            )
        )  # fmt: skip

    def _retrieve_item(self, body: Object) -> None:
        item = self.conversation.retrieve(str(body["item_id"]))
        self._port.send(make_event("conversation.item.retrieved", item=item.as_json(audio=True)))

    def _create_response(self, body: Object) -> None:
        if self.session.kind == "transcription":
            raise RealtimeError("A transcription session gives no responses.", "invalid_value", "type")
        given = mapping(body.get("response") or {}, "response")
        self._wish = read_wish(given, self.session, self._input_item, self._limits.messages)
        try:
            self._step(Input.CREATE)
        finally:
            self._wish = None

    def _input_item(self, item: Object, where: str) -> Item:
        """An item of a response's own input."""
        if item.get("type") == "item_reference":
            return self.conversation.retrieve(check_id(item.get("id"), f"{where}.id"))
        return self._read_item(item, where)

    def _cancel_response(self, body: Object) -> None:
        wanted = body.get("response_id")
        if wanted is not None and self.state.is_active and self.response is not None and wanted != self.response.id:
            raise not_active()
        self._step(Input.CANCEL)

    def _clear_output(self, body: Object) -> None:
        response_id = "" if self.response is None else self.response.id
        self._port.send(make_event("output_audio_buffer.cleared", response_id=response_id))

    # The user's speech.

    def speech_started(self, start_ms: int) -> None:
        """The user speaks; `start_ms` with the padding before it."""
        self._turn_id = new_id("item")
        self._port.send(
            make_event("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=self._turn_id)
        )  # fmt: skip
        detection = self.session.turn_detection
        if detection is not None and not detection.interrupt_response:
            self._step(Input.SPEECH_OVERLAPS)
            return
        if self.response is not None and not self.state.is_active:
            self.response.cut_to_heard()  # it was sent whole, and is played no further than this
        self._step(Input.SPEECH_INTERRUPTS)

    def speech_stopped(self, end_ms: int, audio: Pcm, rate: int, *, noise: bool = False) -> None:
        """The turn has ended.

        Args:
            end_ms: where the end was noticed.
            audio: of the turn, int16 `[n]`.
            rate: of the audio.
            noise: it was not meant for the model.
        """
        item_id = self._turn_id or new_id("item")
        self._port.send(make_event("input_audio_buffer.speech_stopped", audio_end_ms=end_ms, item_id=item_id))
        answer = not noise and self.session.kind == "realtime" and self.session.answers_turns
        self._commit(spoken_item(item_id, audio, rate), waits=answer, noise=noise)
        self._step(Input.TURN_ENDED if answer else Input.TURN_DROPPED)

    def commit(self, audio: Pcm, rate: int) -> None:
        """The client ends the user's turn; there is no answer until it asks."""
        self._commit(spoken_item(self._turn_id or new_id("item"), audio, rate))
        self._step(Input.TURN_DROPPED)

    def idle_timeout(self, start_ms: int, end_ms: int) -> None:
        """Nobody has spoken for as long as the settings allow: a turn without words, and an answer."""
        item = spoken_item(new_id("item"), np.zeros(0, np.int16), self.session.input_rate)
        self._port.send(
            make_event(
                "input_audio_buffer.timeout_triggered", audio_start_ms=start_ms, audio_end_ms=end_ms, item_id=item.id
            )
        )  # fmt: skip
        self._commit(item, noise=True)
        self._step(Input.TURN_ENDED)

    def cleared(self) -> None:
        """The client has cleared the audio buffer."""
        self._turn_id = None
        self._port.send(make_event("input_audio_buffer.cleared"))
        self._step(Input.TURN_DROPPED)

    def _commit(self, item: Item, *, waits: bool = False, noise: bool = False) -> None:
        self._turn_id = None
        previous = self.conversation.add(item)
        self._port.send(make_event("input_audio_buffer.committed", previous_item_id=previous, item_id=item.id))
        self._added(item, previous)
        wanted = self.session.transcription is not None or self.session.kind == "transcription"
        self.transcripts.expect(item, waits=waits, wanted=wanted)
        if noise:
            self.transcripts.drop(item)
        elif wanted:
            self._port.transcribe(item)

    # The generator.

    def answer_started(self, number: int, *, noise: bool) -> None:
        """The first token is known."""
        self._step(Input.NOISE if noise else Input.MEANT, number)

    def answer_text(self, number: int, text: str) -> None:
        """More text."""
        self._step(Input.DELTA, number, text)

    def answer_audio(self, number: int, chunk: SpeechChunk) -> None:
        """More audio."""
        self._step(Input.DELTA, number, chunk)

    def answer_ended(self, number: int, usage: Usage, *, full: bool) -> None:
        """The end; `full`: at the most tokens."""
        if number == self.state.number:
            self._usage = usage
        self._step(Input.INCOMPLETE if full else Input.COMPLETED, number)

    def media_failed(self, number: int) -> None:
        """An image or audio of the prompt could not be read. It must not spoil every later answer."""
        if number == self.state.number and self.response is not None and self.response.wish.items is None:
            self.conversation.forget_new_media()

    def answer_failed(self, number: int, kind: str, code: str | None, message: str) -> None:
        """An error."""
        if number == self.state.number:
            self._failure = {"type": kind, "code": code or SERVER, "message": message}
        self._step(Input.FAILED, number)

    # The machine's actions.

    def _step(self, given: Input, number: int | None = None, delta: str | SpeechChunk | None = None) -> None:
        self.state, actions = step(self.state, given, number)
        for action in actions:
            self._do(action, delta)

    def _do(self, action: Action, delta: str | SpeechChunk | None) -> None:
        if action is Action.START:
            self._start()
        elif action is Action.STOP:
            self._usage = self._port.stop()
        elif action is Action.TURN_MEANT:
            self.transcripts.release()
        elif action is Action.TURN_NOISE:
            self.transcripts.drop_waiting()
        elif action is Action.REFUSE_ACTIVE:
            raise already_active()
        elif action is Action.REFUSE_NOT_ACTIVE:
            raise not_active()
        else:
            response = self.response
            assert response is not None, f"{action} without a response"
            for event in self._events(response, action, delta):
                self._port.send(event)

    def _start(self) -> None:
        """Start the generator of the response that was asked for, or of an automatic one."""
        wish = self._wish or Wish(self.session)
        self.response = Response(
            wish, self.conversation if wish.in_conversation else None, self._conversation_id, self._clock
        )
        self._usage, self._failure = Usage(), None
        messages = self.conversation.messages(wish.session.instructions, wish.items)
        self._port.start(Job(self.state.number, messages, wish.session, text_to_read(wish)))

    def _events(self, response: Response, action: Action, delta: str | SpeechChunk | None) -> list[Event]:
        usage = self._usage
        if action is Action.ANNOUNCE:
            return response.created()
        if action is Action.OPEN:
            return response.opened()
        if action is Action.PASS:
            assert delta is not None
            return response.text_delta(delta) if isinstance(delta, str) else response.audio_delta(delta)
        if action is Action.COMPLETE:
            return response.finish("completed", usage)
        if action is Action.INCOMPLETE:
            return response.finish("incomplete", usage, reason="max_output_tokens")
        if action is Action.FAIL:
            return response.finish("failed", usage, error=self._failure)
        reason = "turn_detected" if action is Action.INTERRUPT else "client_cancelled"
        return response.finish("cancelled", usage, reason=reason)


def already_active() -> RealtimeError:
    """Refuses a second response."""
    what = "The conversation has an active response; wait for response.done, or cancel it."
    return RealtimeError(what, "conversation_already_has_active_response")


def not_active() -> RealtimeError:
    """Refuses to cancel what does not run. One client looks at how the message begins."""
    return RealtimeError("Cancellation failed: no active response found.", "response_cancel_not_active")
