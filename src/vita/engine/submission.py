"""Checks of a request before it is queued; they need no file and no model weights."""

from __future__ import annotations

from collections.abc import Sequence

from vita.checkpoint.open import Checkpoint
from vita.errors import RequestError
from vita.media.source import snapshot_memory
from vita.options import check_number, show_value
from vita.prompt.processor import Processor, split_system
from vita.types import Audio, MediaOptions, Message, Text

SHORT_TEXT = 2000  # characters
MAX_PRIORITY = 1_000_000  # as many levels as anybody needs, and few enough to add seconds to


def accept_messages(
    messages: Sequence[Message], options: MediaOptions, processor: Processor, checkpoint: Checkpoint
) -> tuple[str | None, list[Message]]:
    """Refuse what needs no file to be refused, and copy what the caller may change later.

    Returns:
        The system text, if there is any, and the turns.

    Raises:
        RequestError: roles, types or options that cannot be used, or audio for a model that was not trained on it.
    """
    system, turns = split_system(messages)
    processor.check_options(options)
    hears = "audio" not in checkpoint.untrained
    if not hears and any(isinstance(part, Audio) for turn in turns for part in turn.parts):
        raise RequestError(
            "this checkpoint was not trained on audio", where=checkpoint.folder.name,
            fix="type the question, or load a model that was",
        )  # fmt: skip
    return system, [snapshot_memory(turn, options) for turn in turns]


def check_submission(priority: int, deadline: float | None, cache_salt: str) -> None:
    """Refuse what would fail in the engine thread.

    Raises:
        RequestError: naming the argument and what is allowed.
    """
    if not isinstance(priority, int):
        raise RequestError(f"must be an integer, not {show_value(priority)}", where="priority")
    if abs(priority) > MAX_PRIORITY:
        allowed = f"between {-MAX_PRIORITY:,} and {MAX_PRIORITY:,}"
        raise RequestError(f"must be {allowed}, not {show_value(priority)}", where="priority")
    if not isinstance(cache_salt, str):
        raise RequestError(f"must be a string, not {show_value(cache_salt)}", where="cache_salt")
    if deadline is None:
        return
    if not (isinstance(deadline, (int, float)) and deadline > 0):  # NaN, too
        raise RequestError(f"must be over 0 seconds, not {show_value(deadline)}", where="deadline")
    check_number(deadline, "deadline")  # an infinite one never passes; an integer can be too large to add


def is_short(turns: Sequence[Message]) -> bool:
    """Whether turns are nothing but a text that is tokenised in less time than a thread takes to wake."""
    parts = [part for turn in turns for part in turn.parts]
    return sum(len(part.text) if isinstance(part, Text) else SHORT_TEXT + 1 for part in parts) <= SHORT_TEXT


def has_media(message: Message) -> bool:
    """Whether a message holds more than text."""
    return not all(isinstance(part, Text) for part in message.parts)
