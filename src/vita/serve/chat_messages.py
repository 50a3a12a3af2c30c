"""Messages of a chat completion to `vita.Message`: the server's and those of `vita batch`. No web framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vita.serve.chat_types import ChatMessage
from vita.serve.errors import invalid, unsupported
from vita.serve.parts import Reader, conversation
from vita.types import Message


def read_chat(
    messages: Sequence[ChatMessage], reader: Reader, spoken: Callable[[str, str], str]
) -> tuple[Message, ...]:
    """OpenAI's messages as `vita.Message`s.

    Args:
        messages: of the request.
        reader: counts parts and characters against its limits.
        spoken: the text of an earlier spoken answer, by its id and the field's name.

    Raises:
        ApiError: 400, naming the field.
    """
    limits = reader.limits
    if len(messages) > limits.messages:
        raise invalid(f"A request may hold {limits.messages} messages at most.", "messages")
    turns = []
    for n, message in enumerate(messages):
        where = f"messages[{n}]"
        parts = reader.content(message.content, f"{where}.content")
        if message.audio is not None and not parts:
            parts = [reader.text(spoken(message.audio.id, f"{where}.audio.id"), where)]
        if message.tool_calls:
            raise unsupported(f"{where}.tool_calls")
        turns.append((message.role, parts))
    return conversation(turns)
