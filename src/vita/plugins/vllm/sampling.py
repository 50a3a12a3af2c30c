"""Sampling parameters of this package as vLLM's, and vLLM's log-probabilities as this package's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm.sampling_params import RequestOutputKind
from vllm.sampling_params import SamplingParams as VllmParams

from vita.engine.reasoning import with_reasoning
from vita.engine.sampler import GREEDY_BELOW, bias_pairs
from vita.events import TokenLogprob
from vita.plugins.vllm.checkpoint import OpenedModel
from vita.plugins.vllm.reasoning_limit import ARGUMENT
from vita.prompt.tokenizer import Tokenizer
from vita.types import SamplingParams


def vllm_params(params: SamplingParams, opened: OpenedModel, most: int, index: int) -> VllmParams:
    """Parameters of one answer. Stop strings are not passed on: they are searched in this package's text. `max_tokens`
    is that of an answer with its reasoning; the visible part is counted in `VllmRequest.take`.

    Args:
        params: checked.
        opened: the checkpoint; its repetition penalty holds if the request names none.
        most: tokens that fit the context behind the prompt.
        index: of the answer; it makes a seed of its own for each of several.
    """
    penalty = params.repetition_penalty
    if penalty is None:
        penalty = opened.checkpoint.config.generation.repetition_penalty
    asked = with_reasoning(params, reasons=opened.tokenizer.reasoning is not None)
    return VllmParams(
        temperature=0.0 if params.temperature < GREEDY_BELOW else params.temperature,
        top_p=params.top_p, top_k=params.top_k, min_p=params.min_p, repetition_penalty=penalty,
        frequency_penalty=params.frequency_penalty, presence_penalty=params.presence_penalty,
        logit_bias=dict(bias_pairs(params)) or None, seed=None if params.seed is None else params.seed + index,
        max_tokens=most if asked is None else min(asked, most), extra_args={ARGUMENT: params.max_reasoning_tokens},
        logprobs=params.logprobs or None, ignore_eos=params.ignore_eos,
        stop_token_ids=[] if params.ignore_eos else sorted(opened.stop_ids),
        detokenize=False, output_kind=RequestOutputKind.DELTA,
    )  # fmt: skip


def token_logprob(token: int, found: Mapping[int, Any], top: int, tokenizer: Tokenizer) -> TokenLogprob:
    """A token's log-probability, and its alternatives, the best first.

    Args:
        token: that was sampled.
        found: vLLM's `Logprob` of it and of the best tokens, by id.
        top: alternatives that were asked for.
        tokenizer: names the tokens.
    """
    best = sorted(found.items(), key=lambda item: item[1].rank or 0)[:top]
    return TokenLogprob(
        token, tokenizer.decode([token]), float(found[token].logprob),
        tuple((other, tokenizer.decode([other]), float(one.logprob)) for other, one in best),
    )  # fmt: skip
