"""Where an answer stands in its reasoning, on the device: which tokens may follow, and which one must.

The bound of `max_reasoning_tokens` is kept here. Nothing is read back, so that sampling never waits for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vita.prompt.tokenizer import ReasoningTokens
from vita.types import SamplingParams

AROUND_REASONING = 2  # tokens


class _Place(NamedTuple):
    """Of one answer; each `[]` on the device."""

    open: Tensor  # bool: between the reasoning tokens
    closed: Tensor  # bool: the reasoning has ended
    used: Tensor  # int64: tokens between them so far


class ReasoningState:
    """The reasoning of one answer. An answer has one reasoning at most.

    Args:
        tokens: ids of the tokens around it.
        limit: most tokens between them; 0: none is begun; None: as many as there is room for.
    """

    def __init__(self, tokens: ReasoningTokens, limit: int | None) -> None:
        self._tokens, self._limit = tokens, limit
        self._place: _Place | None = None

    def mask(self, scores: Tensor) -> Tensor:
        """Scores `[vocab]` in which no reasoning can begin within or after the first, and with a limit of 0 none."""
        place, begin, masked = self._at(scores), self._tokens.begin, scores.clone()
        begun = place.open | place.closed
        masked[begin] = -torch.inf if self._limit == 0 else torch.where(begun, -torch.inf, scores[begin])
        return masked

    def force(self, token: Tensor) -> Tensor:
        """The token, int64 `[]`, or the end of the reasoning if its limit is reached."""
        if self._limit is None:
            return token
        place = self._at(token)
        return torch.where(place.open & (place.used >= self._limit), self._tokens.end, token)

    def record(self, token: Tensor) -> Tensor:
        """Add a token, int64 `[]`; returns whether it belongs to the visible answer, bool `[]`."""
        place = self._at(token)
        begins = (token == self._tokens.begin) & ~place.closed
        hidden = place.open | begins
        ends = place.open & (token == self._tokens.end)
        self._place = _Place(hidden & ~ends, place.closed | ends, place.used + (place.open & ~ends))
        return ~hidden

    def _at(self, like: Tensor) -> _Place:
        if self._place is None:
            no = torch.zeros((), dtype=torch.bool, device=like.device)
            self._place = _Place(no, no, torch.zeros((), dtype=torch.int64, device=like.device))
        return self._place


def with_reasoning(params: SamplingParams, *, reasons: bool) -> int | None:
    """Most tokens of an answer and its reasoning; None: no bound.

    Args:
        params: of the request; its `max_tokens` counts the visible answer.
        reasons: whether the checkpoint writes a reasoning.
    """
    visible, reasoning = params.max_tokens, params.max_reasoning_tokens
    if visible is None or not reasons or reasoning == 0:
        return visible
    return None if reasoning is None else visible + reasoning + AROUND_REASONING
