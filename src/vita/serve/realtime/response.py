"""One response: its server events in order, and its item in the conversation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vita.events import SpeechChunk, Usage
from vita.runtime.clock import Clock
from vita.serve.errors import JSON
from vita.serve.realtime.codec import AudioEncoder
from vita.serve.realtime.conversation import Conversation, heard_text
from vita.serve.realtime.events import Event, make_event, new_id
from vita.serve.realtime.items import Content, Item
from vita.serve.realtime.session import PCM_RATE, format_json
from vita.serve.realtime.wish import Wish

ResponseStatus = Literal["in_progress", "completed", "cancelled", "incomplete", "failed"]
CANCEL_REASONS = ("turn_detected", "client_cancelled")


@dataclass(eq=False)
class Response:
    """A response from response.created to response.done. Every method returns the events to send.

    Args:
        wish: its settings.
        conversation: its item joins it; None: it joins none.
        conversation_id: of the session.
        clock: seconds, monotonic.
    """

    wish: Wish
    conversation: Conversation | None
    conversation_id: str
    clock: Clock = time.monotonic
    id: str = field(default_factory=lambda: new_id("resp"))
    item: Item = field(default_factory=lambda: Item(new_id("item"), role="assistant", status="in_progress"))
    first_audio: float | None = None  # when it was sent

    def __post_init__(self) -> None:
        self.session = self.wish.session
        self.audible = self.session.modality == "audio"
        self._encoder = AudioEncoder(self.session.output_format)
        self._previous: str | None = None
        self._opened = False

    @property
    def seconds_left(self) -> float:
        """Until the audio so far has been played."""
        if self.first_audio is None or self.conversation is None:
            return 0.0
        spoken = self.conversation.spoken(self.item.id)
        return max(0.0, spoken.milliseconds / 1000 - (self.clock() - self.first_audio))

    @property
    def text(self) -> str:
        """Text so far."""
        return self.item.content[0].text or "" if self.item.content else ""

    def created(self) -> list[Event]:
        """The response begins."""
        return [make_event("response.created", response=self._as_json("in_progress", None, None))]

    def opened(self) -> list[Event]:
        """Its item begins."""
        self._opened = True
        empty = self.item.as_json()
        events = [make_event("response.output_item.added", response_id=self.id, output_index=0, item=empty)]
        if self.conversation is not None:
            self._previous = self.conversation.add(self.item)
            events.append(make_event("conversation.item.added", previous_item_id=self._previous, item=empty))
        kind = "output_audio" if self.audible else "output_text"
        self.item.content.append(Content(kind, text="", rate=PCM_RATE))
        return [*events, self._part("response.content_part.added", part=self._part_json(""))]

    def text_delta(self, delta: str) -> list[Event]:
        """More text."""
        if not self.item.is_cut:
            self.item.content[0].text = self.text + delta
        name = "output_audio_transcript" if self.audible else "output_text"
        return [self._part(f"response.{name}.delta", delta=delta)]

    def audio_delta(self, chunk: SpeechChunk) -> list[Event]:
        """More audio; none in a text response."""
        if not self.audible:
            return []
        if self.first_audio is None:
            self.first_audio = self.clock()
        if self.conversation is not None and not self.item.is_cut:
            spoken = self.conversation.spoken(self.item.id)
            spoken.add(len(chunk.samples) * 1000 / PCM_RATE, chunk.text_end)
        return self._audio(self._encoder.feed(chunk.samples))

    def _audio(self, pieces: list[str]) -> list[Event]:
        return [self._part("response.output_audio.delta", delta=piece) for piece in pieces]

    def finish(
        self, status: ResponseStatus, usage: Usage, *, reason: str | None = None,
        error: Mapping[str, JSON] | None = None,
    ) -> list[Event]:  # fmt: skip
        """The response ends; a cancelled one keeps in the conversation what may have been heard of it.

        Args:
            status: how.
            usage: tokens.
            reason: of "cancelled" and "incomplete".
            error: of "failed".
        """
        details: dict[str, JSON] | None = None if status == "completed" else {"type": status}
        if details is not None and reason is not None:
            details["reason"] = reason
        if details is not None and error is not None:
            details["error"] = dict(error)
        events = self._close(status) if self._opened else []
        return [*events, make_event("response.done", response=self._as_json(status, details, usage))]

    def _close(self, status: ResponseStatus) -> list[Event]:
        """The closing events of the item."""
        events = self._audio(self._encoder.finish()) if self.audible and status != "cancelled" else []
        if status == "cancelled":
            self.cut_to_heard()
        self.item.status = "completed" if status == "completed" else "incomplete"
        text = self.text
        if self.audible:
            events.append(self._part("response.output_audio.done"))
            events.append(self._part("response.output_audio_transcript.done", transcript=text))
        else:
            events.append(self._part("response.output_text.done", text=text))
        events.append(self._part("response.content_part.done", part=self._part_json(text)))
        item = self.item.as_json()
        if self.conversation is not None:
            events.append(make_event("conversation.item.done", previous_item_id=self._previous, item=item))
        events.append(make_event("response.output_item.done", response_id=self.id, output_index=0, item=item))
        return events

    def cut_to_heard(self) -> None:
        """Forget what nobody can have heard: audio plays no faster than time passes."""
        if not self.audible or not self._opened:
            return
        elapsed = 0.0 if self.first_audio is None else (self.clock() - self.first_audio) * 1000
        if self.conversation is None or self.conversation.find(self.item.id) is None:
            return
        spoken = self.conversation.spoken(self.item.id)
        if elapsed < spoken.milliseconds:
            self.conversation.truncate(self.item.id, elapsed)
        elif self.item.status == "in_progress" and not self.item.is_cut:  # text that was not spoken yet was not heard
            self.item.content[0].text = heard_text(self.text, spoken.text_at(elapsed))

    def _part(self, kind: str, **fields: JSON) -> Event:
        return make_event(
            kind, response_id=self.id, item_id=self.item.id, output_index=0, content_index=0, **fields
        )  # fmt: skip

    def _part_json(self, text: str) -> dict[str, JSON]:
        return {"type": "audio", "transcript": text} if self.audible else {"type": "text", "text": text}

    def _as_json(
        self, status: ResponseStatus, details: Mapping[str, JSON] | None, usage: Usage | None
    ) -> dict[str, JSON]:
        session = self.session
        audio: dict[str, JSON] = {
            "output": {"format": format_json(session.output_format), "voice": session.voice},
        }  # fmt: skip
        output: list[JSON] = [self.item.as_json()] if self._opened and status != "in_progress" else []
        return {
            "id": self.id, "object": "realtime.response", "status": status, "status_details": details,
            "output": output, "conversation_id": self.conversation_id if self.wish.in_conversation else None,
            "output_modalities": [session.modality], "max_output_tokens": session.max_output_tokens or "inf",
            "audio": audio, "metadata": self.wish.metadata, "usage": None if usage is None else usage_json(usage),
        }  # fmt: skip


def usage_json(usage: Usage) -> dict[str, JSON]:
    """OpenAI's object."""
    cached: dict[str, JSON] = {"text_tokens": usage.reused_tokens, "audio_tokens": 0, "image_tokens": 0}
    return {
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "input_token_details": {
            "text_tokens": usage.text_tokens, "audio_tokens": usage.audio_tokens, "image_tokens": usage.image_tokens,
            "cached_tokens": usage.reused_tokens, "cached_tokens_details": cached,
        },
        "output_token_details": {"text_tokens": usage.completion_tokens, "audio_tokens": 0},
    }  # fmt: skip
