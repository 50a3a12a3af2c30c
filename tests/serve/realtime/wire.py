"""What a strict client checks of the server's events, and a dialogue without an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vita.events import SpeechChunk, Usage
from vita.serve.options import Limits
from vita.serve.realtime.dialogue import Dialogue, Job
from vita.serve.realtime.events import MAX_EVENT_BYTES, SERVER_EVENTS, ClientEvent
from vita.serve.realtime.items import Item
from vita.serve.realtime.session import Catalog, Session, new_session

CATALOG = Catalog("vita-nano", "piper", frozenset(("piper", "espeak")))


@dataclass
class Wire:
    """Checks every event as it arrives.

    Attributes:
        active: id of the response that is announced and not done.
        open_item: id of its item.
        done: ids of responses that are done.
        items: ids of items that were added and not deleted.
        said: deltas of each response's text.
    """

    events: list[Any] = field(default_factory=list)
    active: str | None = None
    open_item: str | None = None
    done: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    items: set[str] = field(default_factory=set)
    said: dict[str, str] = field(default_factory=dict)
    closing: list[str] = field(default_factory=list)

    def see(self, event: Any) -> None:
        kind = event["type"]
        if not self.events:
            assert kind == "session.created", "the first event"
        self.events.append(event)
        assert set(event) == {"type", "event_id", *SERVER_EVENTS[kind]}
        assert event["event_id"] not in self.ids
        self.ids.add(event["event_id"])
        assert len(str(event)) < MAX_EVENT_BYTES
        if kind.startswith("response."):
            self._response(kind, event)
        elif kind == "conversation.item.added":
            self._added(event)
        elif kind == "conversation.item.deleted":
            self.items.discard(event["item_id"])

    def _added(self, event: Any) -> None:
        assert event["item"]["id"] not in self.items
        assert event["previous_item_id"] is None or event["previous_item_id"] in self.items
        self.items.add(event["item"]["id"])

    def _response(self, kind: str, event: Any) -> None:
        if kind == "response.created":
            assert self.active is None, "two active responses"
            self.active = event["response"]["id"]
            assert self.active not in self.done
            self.open_item, self.closing = None, []
            self.said[self.active] = ""
            return
        response_id = event["response"]["id"] if kind == "response.done" else event["response_id"]
        assert response_id == self.active, f"{kind} of a response that is not active"
        if kind == "response.output_item.added":
            assert self.open_item is None
            self.open_item = event["item"]["id"]
        elif kind == "response.done":
            assert event["response"]["status"] in ("completed", "cancelled", "incomplete", "failed")
            output = event["response"]["output"]
            assert [item["id"] for item in output] == ([self.open_item] if self.open_item else [])
            assert not self.open_item or self.closing[-1] == "response.output_item.done"
            usage = event["response"]["usage"]
            assert all(isinstance(usage[name], int) for name in ("total_tokens", "input_tokens", "output_tokens"))
            self.done.add(response_id)
            self.active = None
        else:
            item_id = event["item"]["id"] if "item" in event else event["item_id"]
            assert item_id == self.open_item
            if kind.endswith(".done"):
                self.closing.append(kind)
            else:
                assert not self.closing, f"{kind} after {self.closing}"
            if kind.endswith(("transcript.delta", "text.delta")):
                self.said[response_id] += event["delta"]

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def last(self, kind: str) -> Any:
        return next(event for event in reversed(self.events) if event["type"] == kind)


class FakePort:
    """Notes what the dialogue asks for."""

    def __init__(self) -> None:
        self.wire, self.jobs, self.running = Wire(), [], None  # type: ignore[var-annotated]
        self.transcribing: list[Item] = []
        self.frames: list[Item] = []
        self.sessions: list[Session] = []

    def send(self, event: Any) -> None:
        self.wire.see(event)

    def start(self, job: Job) -> None:
        assert self.running is None, "two generators"
        self.running = job.number
        self.jobs.append(job)

    def stop(self) -> Usage:
        assert self.running is not None
        self.running = None
        return Usage(prompt_tokens=3, completion_tokens=1)

    def transcribe(self, item: Item) -> None:
        self.transcribing.append(item)

    def encode(self, item: Item) -> None:
        self.frames.append(item)

    def configure(self, session: Session) -> None:
        self.sessions.append(session)


class Talk:
    """A dialogue, its port, and a clock that stands until it is moved."""

    def __init__(self, **session: Any) -> None:
        self.port, self.now = FakePort(), 100.0
        first = new_session("sess_1", CATALOG, 1_900_000_000).merge(session)
        self.dialogue = Dialogue(first, self.port, Limits(), clock=lambda: self.now)
        self.dialogue.open()

    @property
    def wire(self) -> Wire:
        return self.port.wire

    def client(self, kind: str, **fields: Any) -> None:
        event_id = fields.pop("event_id", None)
        self.dialogue.handle(ClientEvent(kind, {"type": kind, **fields}, event_id))

    def say(self, *, noise: bool = False) -> None:
        """A spoken turn of half a second."""
        self.dialogue.speech_started(0)
        self.stop_speaking(noise=noise)

    def stop_speaking(self, *, noise: bool = False) -> None:
        self.dialogue.speech_stopped(1000, np.zeros(8000, np.int16), 16_000, noise=noise)

    @property
    def last(self) -> str:
        """Id of the conversation's last item, or of none."""
        return self.dialogue.conversation.last_id or "none"

    @property
    def number(self) -> int:
        return self.dialogue.state.number

    def begin(self, *, noise: bool = False) -> None:
        self.dialogue.answer_started(self.number, noise=noise)

    def text(self, text: str) -> None:
        self.dialogue.answer_text(self.number, text)

    def audio(self, milliseconds: int, text_start: int, text_end: int) -> None:
        samples = np.full(24 * milliseconds, 0.1, np.float32)
        self.dialogue.answer_audio(self.number, SpeechChunk(samples=samples, text_start=text_start, text_end=text_end))

    def end(self, *, full: bool = False) -> None:
        self.port.running = None
        self.dialogue.answer_ended(self.number, Usage(prompt_tokens=10, completion_tokens=4), full=full)

    def fail(self) -> None:
        self.port.running = None
        self.dialogue.answer_failed(self.number, "server_error", None, "It broke.")
