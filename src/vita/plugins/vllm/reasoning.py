"""Reports the response state of an answer in the field `reasoning` (`--reasoning-parser vita`).

The field holds "typed", "spoken" or "noise" (`vita.events.State`); the content holds no state token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser

from vita.prompt.detokenizer import STATE_PATTERN
from vita.prompt.tokenizer import IM_START, STATE_TOKENS

SPECIAL = re.compile(r"<\|[a-z_]+\|>")


class ResponseStateParser(ReasoningParser):
    """Splits an answer into its response state and its text."""

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        """Whether the state is over: never in a prompt, which ends where the answer begins."""
        return False

    def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Iterable[int]) -> bool:
        """Whether what follows is text alone.

        Structured output asks with the prompt's ids: its grammar begins behind the first token, which is the state. The
        server asks with the answer's ids; there every piece goes on through this parser.
        """
        return self.vocab[IM_START] in input_ids

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        """The ids without the state token."""
        return [token for token in input_ids if self.model_tokenizer.decode([token]) not in STATE_TOKENS]

    def adjust_request(self, request: Any) -> Any:
        """Ask for special tokens, among which state tokens are."""
        request.skip_special_tokens = False
        return request

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
        """State and text of a whole answer."""
        return _state(model_output), _content(model_output)

    def extract_reasoning_streaming(
        self, previous_text: str, current_text: str, delta_text: str, previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int], delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:  # fmt: skip
        """State and text of the newest piece."""
        state = _state(current_text) if _state(previous_text) is None else None
        content = _content(delta_text)
        return DeltaMessage(reasoning=state, content=content or None) if state or content else None


def _state(text: str) -> str | None:
    """The state that a text begins with."""
    start = text.lstrip()[:1]
    return STATE_TOKENS.get(start)


def _content(text: str) -> str:
    return SPECIAL.sub("", STATE_PATTERN.sub("", text))
