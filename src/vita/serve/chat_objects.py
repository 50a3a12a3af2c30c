"""Objects of a whole chat completion: the server's answers and the lines of `vita batch`. No web framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vita.serve.answers import details, logprob_object, shown_tokens
from vita.serve.errors import JSON

if TYPE_CHECKING:
    from vita.events import FinishReason, Result, TokenLogprob, Usage
    from vita.serve.served_model import LoadedCheckpoint


def finish_reason(reason: FinishReason) -> str:
    """OpenAI's word for it."""
    return "length" if reason == "length" else "stop"


def usage_object(usage: Usage, completion: int, reasoning: int, audio_tokens: int = 0) -> dict[str, JSON]:
    """OpenAI's usage object of a chat completion.

    Args:
        usage: of the prompt.
        completion: tokens of all answers, with their reasoning.
        reasoning: tokens of their reasoning.
        audio_tokens: of their speech.
    """
    completion += audio_tokens
    return {
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": completion,
        "total_tokens": usage.prompt_tokens + completion,
        "prompt_tokens_details": {
            "cached_tokens": usage.reused_tokens, "audio_tokens": usage.audio_tokens,
            "image_tokens": usage.image_tokens, "text_tokens": usage.text_tokens, "cache_write_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning, "audio_tokens": audio_tokens,
            "text_tokens": completion - audio_tokens - reasoning,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    }  # fmt: skip


def logprobs_object(model: LoadedCheckpoint, tokens: Sequence[TokenLogprob], top: int) -> dict[str, JSON]:
    """OpenAI's log-probabilities of one choice.

    Args:
        model: whose tokens they are.
        tokens: of the answer, with alternatives.
        top: alternatives that were asked for.
    """
    content: list[JSON] = []
    for token in shown_tokens(tokens, model):
        others: list[JSON] = [logprob_object(model, *one) for one in token.top[:top]]
        content.append(logprob_object(model, token.id, token.text, token.logprob) | {"top_logprobs": others})
    return {"content": content, "refusal": None}


def completion_object(
    results: Sequence[Result], model: LoadedCheckpoint, *, id: str, created: int, name: str, top_logprobs: int | None
) -> dict[str, JSON]:
    """OpenAI's object of a chat completion.

    Args:
        results: the request's answers, at least one.
        model: that answered.
        id: "chatcmpl-…".
        created: seconds since the epoch.
        name: the model's name for clients.
        top_logprobs: alternatives that were asked for; None: no log-probabilities.
    """
    choices: list[JSON] = []
    for index, result in enumerate(results):
        logprobs = None if top_logprobs is None else logprobs_object(model, result.logprobs, top_logprobs)
        message: dict[str, JSON] = {"role": "assistant", "content": result.text, "refusal": None}
        if result.reasoning:
            message["reasoning_content"] = result.reasoning
        choices.append({
            "index": index, "message": message,
            "finish_reason": finish_reason(result.finish_reason), "logprobs": logprobs,
        })  # fmt: skip
    first, completion = results[0], sum(result.usage.completion_tokens for result in results)
    return {
        "id": id, "object": "chat.completion", "created": created, "model": name, "choices": choices,
        "usage": usage_object(first.usage, completion, sum(result.reasoning_tokens for result in results)),
        "vita": details(first.state, first.notes, first.timings),
    }  # fmt: skip
