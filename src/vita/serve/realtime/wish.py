"""What a client wants of one response: its settings, and whether a text is only to be read aloud."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vita.serve.errors import JSON
from vita.serve.realtime.events import Object, RealtimeError, mapping
from vita.serve.realtime.items import Item
from vita.serve.realtime.session import Session

MAX_METADATA = 16  # keys, as at OpenAI
MAX_METADATA_TEXT = 512  # characters
# Instructions by which clients use a realtime model as a voice. A small model would answer such a text.
READ_ALOUD = re.compile(
    r"text-to-speech|\bread\b[^.]{0,80}\b(aloud|verbatim|word for word|exactly)\b"
    r"|\b(say|speak|repeat) (only|exactly)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Wish:
    """What a response is to be like.

    Attributes:
        session: the settings of the session, with those of the response.
        metadata: sent back.
        in_conversation: whether its item joins the conversation.
        items: the prompt instead of the conversation's items; None: those.
    """

    session: Session
    metadata: JSON = None
    in_conversation: bool = True
    items: tuple[Item, ...] | None = None


ReadItem = Callable[[Object, str], Item]


def read_wish(given: Object, session: Session, read_item: ReadItem, max_items: int) -> Wish:
    """The settings of response.create.

    Args:
        given: its `response`.
        session: the settings of the session.
        read_item: reads an item of its `input`, named for errors.
        max_items: of its `input`.

    Raises:
        RealtimeError: naming the field.
    """
    target = given.get("conversation") or "auto"
    if target not in ("auto", "none"):
        raise RealtimeError('conversation must be "auto" or "none".', param="response.conversation")
    items: tuple[Item, ...] | None = None
    asked = given.get("input")
    if asked is not None:
        if not isinstance(asked, list) or len(asked) > max_items:
            raise RealtimeError(f"input must be a list of {max_items} items at most.", param="response.input")
        wheres = (f"response.input[{n}]" for n in range(len(asked)))
        items = tuple(read_item(mapping(item, where), where) for item, where in zip(asked, wheres, strict=True))
    return Wish(session.for_response(given), check_metadata(given.get("metadata")), target == "auto", items)


def check_metadata(value: JSON) -> JSON:
    """The value itself: null, or an object of a few strings.

    Raises:
        RealtimeError: something else.
    """
    if value is None:
        return None
    texts = mapping(value, "response.metadata").values()
    if len(texts) > MAX_METADATA or not all(isinstance(t, str) and len(t) <= MAX_METADATA_TEXT for t in texts):
        raise RealtimeError(f"metadata must be an object of {MAX_METADATA} strings at most.", param="response.metadata")
    return value


def text_to_read(wish: Wish) -> str | None:
    """The text of a response that only reads it aloud: outside of the conversation, of one text of the user, and with
    instructions that say so. None: it is to be answered."""
    items, session = wish.items, wish.session
    if wish.in_conversation or session.modality != "audio" or items is None or len(items) != 1:
        return None
    item = items[0]
    if item.type != "message" or item.role != "user" or not READ_ALOUD.search(session.instructions):
        return None
    if not all(content.type == "input_text" for content in item.content):
        return None
    return "\n".join(content.text or "" for content in item.content).strip() or None
