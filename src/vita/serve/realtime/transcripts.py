"""Transcripts of what the user said: held back until it is known that a turn was meant for the model.

A turn that was noise gets an empty transcript, by which clients remove it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vita.serve.errors import JSON
from vita.serve.realtime.events import Event, make_event
from vita.serve.realtime.items import Item

PREFIX = "conversation.item.input_audio_transcription"


@dataclass(eq=False)
class _Turn:
    """A turn whose transcript is not complete, or of which it is not known whether it was noise.

    Attributes:
        item: the user's.
        waits: it is not known yet whether it was noise.
        wanted: the client wants a transcript.
        ended: the transcript is complete.
        held: events that wait.
    """

    item: Item
    waits: bool
    wanted: bool
    ended: bool = False
    text: str = ""
    held: list[Event] = field(default_factory=list)


class Transcripts:
    """The turns of one session whose transcripts are not complete.

    Args:
        send: sends an event.
    """

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._turns: dict[str, _Turn] = {}

    def expect(self, item: Item, *, waits: bool, wanted: bool) -> None:
        """A turn has ended; `waits`: until `release` or `drop_waiting`."""
        if waits or wanted:
            self._turns[item.id] = _Turn(item, waits, wanted, ended=not wanted)

    def is_open(self, item: Item) -> bool:
        """Whether more of the transcript is wanted."""
        found = self._turns.get(item.id)
        return found is not None and not found.ended

    def delta(self, item: Item, text: str) -> None:
        """More text."""
        if self.is_open(item) and text:
            found = self._turns[item.id]
            found.text += text
            self._pass(found, make_event(f"{PREFIX}.delta", item_id=item.id, content_index=0, delta=text))

    def completed(self, item: Item) -> None:
        """The end of the text."""
        if self.is_open(item):
            text = self._turns[item.id].text.strip()
            item.content[0].text = text
            self._end(item, completed_event(item, text))

    def failed(self, item: Item, kind: str, code: str | None, message: str) -> None:
        """There is no transcript."""
        if self.is_open(item):
            error: dict[str, JSON] = {"type": kind, "code": code, "message": message, "param": None}
            self._end(item, make_event(f"{PREFIX}.failed", item_id=item.id, content_index=0, error=error))

    def release(self) -> None:
        """The turns that wait were meant for the model."""
        for found in [found for found in self._turns.values() if found.waits]:
            found.waits = False
            for event in found.held:
                self._send(event)
            found.held.clear()
            if found.ended:
                del self._turns[found.item.id]

    def drop_waiting(self) -> None:
        """The turns that wait were noise."""
        for found in [found for found in self._turns.values() if found.waits]:
            self.drop(found.item)

    def drop(self, item: Item) -> None:
        """A turn was noise: its transcript is empty, and the model does not hear it again."""
        found = self._turns.pop(item.id, None)
        if found is not None and found.wanted:
            self._send(completed_event(item, ""))
        item.content[0].text, item.content[0].audio = "", None

    def close(self) -> None:
        """The client is gone."""
        self._turns.clear()

    def _end(self, item: Item, event: Event) -> None:
        found = self._turns[item.id]
        found.ended = True
        self._pass(found, event)
        if not found.waits:
            del self._turns[item.id]

    def _pass(self, found: _Turn, event: Event) -> None:
        if found.waits:
            found.held.append(event)
        else:
            self._send(event)


def completed_event(item: Item, text: str) -> Event:
    """The whole transcript; usage is the duration of the audio."""
    content = item.content[0]
    seconds = len(content.audio) / content.rate if content.audio is not None and content.rate else 0.0
    usage: dict[str, JSON] = {"type": "duration", "seconds": round(seconds, 3)}
    return make_event(f"{PREFIX}.completed", item_id=item.id, content_index=0, transcript=text, usage=usage)
