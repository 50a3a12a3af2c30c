"""Bounds the reasoning of an answer, as the engine does (`--logits-processors` of vLLM).

Name it `vita.plugins.vllm.reasoning_limit:ReasoningLimit`. A request sets its own limit by `max_reasoning_tokens` among
its `extra_args` (`vllm_xargs` over HTTP). With speculative decoding vLLM takes no logits processors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from vita.plugins.vllm.checkpoint import opened_model
from vita.prompt.tokenizer import ReasoningTokens
from vita.types import MAX_REASONING_TOKENS

if TYPE_CHECKING:
    from vllm.config import VllmConfig

NAME = f"{__name__}:ReasoningLimit"
ARGUMENT = "max_reasoning_tokens"


class ReasoningLimit(AdapterLogitsProcessor):
    """At most one reasoning in an answer, of a bounded length (`vita.engine.reasoning.ReasoningState`).

    Args:
        vllm_config: names the model.
        device, is_pin_memory: not used.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._tokens = opened_model(vllm_config.model_config.model).tokenizer.reasoning

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a limit that is not an integer from 0 on."""
        limit = _limit(sampling_params)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise VLLMValidationError(f"{ARGUMENT} must be 0 (none) or more, or null for no limit; it is {limit!r}")

    def is_argmax_invariant(self) -> bool:
        """No: it changes greedy answers too."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Limit | None:
        """What bounds one answer; None: the checkpoint writes no reasoning."""
        return None if self._tokens is None else Limit(self._tokens, _limit(params))


class Limit:
    """The bound of one answer.

    Args:
        tokens: ids of the tokens around the reasoning.
        limit: most tokens between them; 0: none is begun; None: as many as there is room for.
    """

    def __init__(self, tokens: ReasoningTokens, limit: int | None) -> None:
        self._tokens, self._limit = tokens, limit

    def __call__(self, said: Sequence[int], logits: Tensor) -> Tensor:
        """Logits `[vocab]` of the token that follows those said so far; changed in place."""
        begin, end = self._tokens
        if begin in said:
            logits[begin] = -torch.inf
            inside = said[said.index(begin) + 1 :]
            if self._limit is not None and end not in inside and len(inside) >= self._limit:
                logits.fill_(-torch.inf)
                logits[end] = 0.0
        elif self._limit == 0:
            logits[begin] = -torch.inf
        return logits


def _limit(params: SamplingParams) -> Any:
    """Of a request."""
    return (params.extra_args or {}).get(ARGUMENT, MAX_REASONING_TOKENS)
