"""The response state of an answer: whether the model answered to text, to speech, or to noise."""

from __future__ import annotations

from collections.abc import Iterable

from vita.events import State
from vita.plugins.vllm.checkpoint import opened_model
from vita.prompt.detokenizer import Detokenizer


def response_state(model: str, token_ids: Iterable[int]) -> State | None:
    """The response state that an answer begins with; None if it has none.

    Args:
        model: path or hub id, as vLLM was given it.
        token_ids: of the answer.
    """
    text = Detokenizer(opened_model(model).tokenizer)
    for token in token_ids:
        text.push(token)
        if text.state_known:
            return text.state
    text.flush()
    return text.state
