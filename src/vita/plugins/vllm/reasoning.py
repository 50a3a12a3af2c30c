"""Reports response state and reasoning of an answer in the field `reasoning` (`--reasoning-parser vita`).

The field holds "typed", "spoken" or "noise" (`vita.events.State`); the reasoning, if there is one, follows on the next
lines. The content holds neither the state token nor the reasoning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser

from vita.prompt.detokenizer import STATE_PATTERN
from vita.prompt.tokenizer import END_THINK, IM_START, STATE_TOKENS, THINK

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
        """The ids without the state token and the reasoning."""
        if THINK in self.vocab and self.vocab[THINK] in input_ids:
            begins, end = input_ids.index(self.vocab[THINK]), self.vocab[END_THINK]
            ends = input_ids.index(end, begins) + 1 if end in input_ids[begins:] else len(input_ids)
            input_ids = input_ids[:begins] + input_ids[ends:]
        return [token for token in input_ids if self.model_tokenizer.decode([token]) not in STATE_TOKENS]

    def adjust_request(self, request: Any) -> Any:
        """Ask for special tokens, among which state tokens are."""
        request.skip_special_tokens = False
        return request

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
        """State and reasoning, and the text, of a whole answer."""
        reasoning, content = self._split(model_output)
        return reasoning or None, content

    def extract_reasoning_streaming(
        self, previous_text: str, current_text: str, delta_text: str, previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int], delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:  # fmt: skip
        """State, reasoning and text of the newest piece."""
        (reasoning, content), (before, said) = self._split(current_text), self._split(previous_text)
        new, text = reasoning[len(before) :], content[len(said) :]
        return DeltaMessage(reasoning=new or None, content=text or None) if new or text else None

    def _split(self, text: str) -> tuple[str, str]:
        """State and reasoning, and what is visible. Each only grows with the text."""
        state = STATE_TOKENS.get(text.lstrip()[:1], "")
        if THINK not in self.vocab:
            return state, _plain(text)
        before, _, rest = text.partition(THINK)
        look, _, after = rest.partition(END_THINK)
        return "\n".join(part for part in (state, _plain(look)) if part), _plain(before + after)


def _plain(text: str) -> str:
    return SPECIAL.sub("", STATE_PATTERN.sub("", text))
