"""The conversation of a realtime session: its items in order, and the prompt they make.

Audio, images and camera frames are bounded: the oldest lose their media, the items stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vita.serve.parts import conversation
from vita.serve.realtime.events import RealtimeError
from vita.serve.realtime.items import Content, Item
from vita.types import Message, Part, Text

ROOT = "root"  # as previous_item_id: before all others
FRAMES_KEPT = 4  # newest camera frames that the model sees
AUDIO_SECONDS_KEPT = 600.0
IMAGE_BYTES_KEPT = 32 << 20
MAX_ITEMS = 10_000
MAX_TEXT = 4_000_000  # characters of all items
RECOUNT = 64  # items after which the characters of all are counted again
GO_ON = "Go on."  # asked where the answer is to follow an answer


@dataclass(eq=False)
class Spoken:
    """Which characters of an answer have been spoken at which time.

    Attributes:
        marks: milliseconds of audio and the end of the text that was spoken by then, both rising.
    """

    marks: list[tuple[float, int]] = field(default_factory=list)

    def add(self, milliseconds: float, text_end: int) -> None:
        """So much more audio speaks the text up to `text_end`."""
        self.marks.append((self.milliseconds + milliseconds, text_end))

    @property
    def milliseconds(self) -> float:
        """Of audio so far."""
        return self.marks[-1][0] if self.marks else 0.0

    def text_at(self, milliseconds: float) -> int:
        """End of the text that was heard after so much audio, in characters."""
        before, start = 0.0, 0
        for at, end in self.marks:
            if milliseconds < at:
                share = (milliseconds - before) / (at - before) if at > before else 0.0
                return start + int(max(0.0, share) * (end - start))
            before, start = at, end
        return start


class Conversation:
    """Items in order. Errors leave it as it was."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._by_id: dict[str, Item] = {}
        self._spoken: dict[str, Spoken] = {}
        self._characters = self._added = 0  # when they were counted last; items since

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def find(self, item_id: str) -> Item | None:
        """The item of this id."""
        return self._by_id.get(item_id)

    @property
    def last_id(self) -> str | None:
        """Id of the last item; None: there is none."""
        return self._items[-1].id if self._items else None

    def add(self, item: Item, previous_id: str | None = None) -> str | None:
        """Insert an item.

        Args:
            item: new.
            previous_id: it stands behind this item; None: at the end; "root": before all others.

        Returns:
            The id of the item before it; None: it is the first.

        Raises:
            RealtimeError: there is no such previous item, the id is taken, or the conversation is too long.
        """
        if item.id in self._by_id:
            raise RealtimeError(f"There is an item {item.id!r} already.", "item_create_duplicate_item_id", "item.id")
        if len(self._items) >= MAX_ITEMS or self._count(item) > MAX_TEXT:
            raise RealtimeError(
                f"A conversation holds {MAX_ITEMS:,} items and {MAX_TEXT:,} characters at most; delete some.",
                "conversation_too_long",
            )
        at = len(self._items)
        if previous_id == ROOT:
            at = 0
        elif previous_id is not None:
            anchor = self._by_id.get(previous_id)
            if anchor is None:
                raise RealtimeError(
                    f"There is no item {previous_id[:64]!r} to insert behind.", "item_create_invalid_previous_item_id",
                    "previous_item_id",
                )  # fmt: skip
            at = self._items.index(anchor) + 1
        self._items.insert(at, item)
        self._by_id[item.id] = item
        if item.has_media:
            self._drop_old_media()
        return self._items[at - 1].id if at else None

    def delete(self, item_id: str) -> None:
        """Remove an item.

        Raises:
            RealtimeError: there is none.
        """
        item = self._by_id.pop(item_id, None)
        if item is None:
            raise RealtimeError(f"There is no item {item_id[:64]!r}.", "item_delete_invalid_item_id", "item_id")
        self._items.remove(item)
        self._spoken.pop(item_id, None)

    def retrieve(self, item_id: str) -> Item:
        """The item of this id.

        Raises:
            RealtimeError: there is none.
        """
        item = self._by_id.get(item_id)
        if item is None:
            raise RealtimeError(f"There is no item {item_id[:64]!r}.", "item_retrieve_invalid_item_id", "item_id")
        return item

    def spoken(self, item_id: str) -> Spoken:
        """How an assistant's item was spoken."""
        return self._spoken.setdefault(item_id, Spoken())

    def truncate(self, item_id: str, milliseconds: float) -> None:
        """Keep what was heard of an answer. More than there is, and unknown items, change nothing.

        One client treats every error here as the end of the session, and what it asks for may come late.
        """
        item, spoken = self._by_id.get(item_id), self._spoken.get(item_id)
        if item is None or spoken is None or item.role != "assistant" or milliseconds >= spoken.milliseconds:
            return
        heard = spoken.text_at(milliseconds)
        for content in item.content:
            content.text = heard_text(content.text or "", heard)
            if content.audio is not None:
                content.audio = content.audio[: int(max(0.0, milliseconds) * content.rate / 1000)]
        spoken.marks = [mark for mark in spoken.marks if mark[0] <= milliseconds]
        item.status, item.is_cut = "incomplete", True

    def messages(self, instructions: str, items: Sequence[Item] | None = None) -> tuple[Message, ...]:
        """The prompt.

        Args:
            instructions: of the session or the response.
            items: instead of the conversation's.
        """
        turns = [item.as_turn() for item in (self._items if items is None else items)]
        turns = [(role, parts) for role, parts in turns if parts]
        rest = [role for role, _ in turns if role != "system"]
        if not rest or rest[-1] != "user":
            # The template ends with the user's turn. Without one, the instructions are what is asked.
            turns.append(("user", [Text(instructions if instructions and not rest else GO_ON)]))
        system: list[tuple[str, list[Part]]] = [("system", [Text(instructions)])] if instructions else []
        messages = list(conversation([*system, *turns]))
        first = 1 if messages[0].role == "system" else 0
        if messages[first].role == "assistant":  # a greeting; the template begins with the user
            messages.insert(first, Message("user", ()))
        return tuple(messages)

    def forget_new_media(self) -> None:
        """Forget what came since the last answer and may be what could not be read: images, or audio without any."""
        new: list[Content] = []
        for item in reversed(self._items):
            if item.role == "assistant" and item.type == "message":
                break
            new += [content for content in item.content if content.has_media]
        images = [content for content in new if content.image is not None]
        for content in images or new:
            content.image, content.image_url, content.audio = None, "", None

    def _count(self, item: Item) -> int:
        """Characters of all items with a new one. Answers grow later, so all are counted anew now and then."""
        self._characters += item.characters
        self._added += 1
        if self._added >= RECOUNT or self._characters > MAX_TEXT:
            self._characters, self._added = item.characters + sum(one.characters for one in self._items), 0
        return self._characters

    def _drop_old_media(self) -> None:
        """Forget the media that are too many, oldest first."""
        frames, seconds, size = 0, 0.0, 0
        for item in reversed(self._items):
            frames += item.is_frame
            for content in item.content:
                if content.audio is not None and content.rate:
                    seconds += len(content.audio) / content.rate
                    if seconds > AUDIO_SECONDS_KEPT:
                        content.audio = None
                size += len(content.image_url)
                if content.image is not None and (size > IMAGE_BYTES_KEPT or (item.is_frame and frames > FRAMES_KEPT)):
                    content.image, content.image_url = None, ""


def heard_text(text: str, end: int) -> str:
    """The text up to `end`, without a word that was begun only."""
    if end >= len(text):
        return text
    kept = text[:end]
    spaced = " " in text
    if spaced and kept and not kept[-1].isspace() and not text[end].isspace():
        kept = kept[: kept.rfind(" ") + 1]
    return kept.rstrip()


def answer_content(kind: str, text: str) -> Content:
    """The content of an answer: "output_audio" or "output_text"."""
    return Content(kind, text=text)
