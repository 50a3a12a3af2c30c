"""Sampling: the next token of every sequence of a batch, from its logits.

One call samples the whole batch. No operation synchronises with the host on CUDA. Every operation is either
elementwise or exact (maximum, sort, integer sum), so a row gets the same token alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vita.engine.reasoning import ReasoningState
from vita.errors import RequestError
from vita.options import show_value
from vita.prompt.tokenizer import ReasoningTokens
from vita.types import SamplingParams

GREEDY_BELOW = 1e-6  # temperatures under this are greedy; a float32 could not hold all of them
MAX_ANSWERS = 16
MAX_BIASES = 1024
FIXED_POINT = 2.0**40  # weights are summed as integers of this scale: exact in any order
HEAD = 1024  # most probable tokens that are sorted first, on a CPU
REAL = torch.float64  # a sum of 150,000 weights has up to 58 bits


def check_params(params: SamplingParams) -> None:
    """Check types and ranges.

    Raises:
        RequestError: naming the parameter and what is allowed.
    """
    if not isinstance(params, SamplingParams):
        raise RequestError(f"must be SamplingParams, not {type(params).__name__}", where="params")
    if params.max_tokens is not None:
        _check_integer("max_tokens", params.max_tokens, 1, None, "1 or more")
    if params.max_reasoning_tokens is not None:
        _check_integer("max_reasoning_tokens", params.max_reasoning_tokens, 0, None, "0 (none) or more")
    _check_number("temperature", params.temperature, 0.0, 10.0, "between 0 and 10")
    _check_number("top_p", params.top_p, 0.0, 1.0, "over 0 and at most 1")
    if params.top_p == 0:
        raise RequestError("must be over 0 and at most 1, not 0.0", where="top_p")
    _check_integer("top_k", params.top_k, 0, None, "0 (no limit) or more")
    _check_number("min_p", params.min_p, 0.0, 1.0, "between 0 and 1")
    if params.repetition_penalty is not None:
        _check_number("repetition_penalty", params.repetition_penalty, 0.01, 100.0, "between 0.01 and 100")
    if params.seed is not None:
        _check_integer("seed", params.seed, -(2**63), 2**63 - 1, "an integer of 64 bits")
    _check_integer("logprobs", params.logprobs, 0, 100, "between 0 and 100")
    _check_integer("n", params.n, 1, MAX_ANSWERS, f"between 1 and {MAX_ANSWERS}")
    _check_number("frequency_penalty", params.frequency_penalty, -2.0, 2.0, "between -2 and 2")
    _check_number("presence_penalty", params.presence_penalty, -2.0, 2.0, "between -2 and 2")
    _check_bias(params.logit_bias)
    if not isinstance(params.ignore_eos, bool):
        raise RequestError(f"must be True or False, not {show_value(params.ignore_eos)}", where="ignore_eos")
    if not isinstance(params.stop, tuple) or not all(isinstance(s, str) for s in params.stop):
        raise RequestError(f"must be a string or a list of strings, not {show_value(params.stop)}", where="stop")
    if "" in params.stop:
        raise RequestError("must not hold an empty string", where="stop")


def _check_bias(bias: object) -> None:
    if not isinstance(bias, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in bias):
        raise RequestError(f"must be a mapping from token ids to numbers, not {show_value(bias)}", where="logit_bias")
    if len(bias) > MAX_BIASES:
        raise RequestError(f"must hold at most {MAX_BIASES} tokens, not {len(bias)}", where="logit_bias")
    for token, value in bias:
        _check_integer("logit_bias", token, 0, None, "a mapping from token ids, which are 0 or more")
        _check_number("logit_bias", value, -100.0, 100.0, "between -100 and 100 for each token")


def bias_pairs(params: SamplingParams) -> tuple[tuple[int, float], ...]:
    """`logit_bias` of checked parameters: ids and what is added."""
    return params.logit_bias if isinstance(params.logit_bias, tuple) else tuple(params.logit_bias.items())


def check_tokens(params: SamplingParams, vocab_size: int) -> None:
    """Check that the ids of `logit_bias` are in the vocabulary.

    Raises:
        RequestError: naming one that is not.
    """
    for token, _ in bias_pairs(params):
        if token >= vocab_size:
            raise RequestError(f"token {token} is not in the vocabulary of {vocab_size}", where="logit_bias")


def _check_integer(name: str, value: object, low: int, high: int | None, allowed: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(f"must be an integer, not {show_value(value)}", where=name)
    if value < low or (high is not None and value > high):
        raise RequestError(f"must be {allowed}, not {show_value(value)}", where=name)


def _check_number(name: str, value: object, low: float, high: float, allowed: str) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise RequestError(f"must be a number, not {show_value(value)}", where=name)
    if not low <= value <= high:  # NaN too
        raise RequestError(f"must be {allowed}, not {show_value(value)}", where=name)


class SamplingState:
    """What sampling needs to know of one sequence, from its first token to its last.

    Args:
        params: as the user asked, checked.
        default_penalty: the checkpoint's repetition penalty, used when the user names none.
        reasoning: tokens around a reasoning, if the checkpoint has any.

    Attributes:
        penalty: the repetition penalty; 1 changes nothing.
        generator: the sequence's own source of randomness, on the CPU, so that a seed means the same on every
            device; None: greedy.
        reasoning: where the answer stands in its reasoning; None: the checkpoint has none.
        generated: bool `[vocab]` on the device, which tokens the visible answer holds; None until there is one, and
            always without a penalty.
        counts: float32 `[vocab]` on the device, how often it holds each token; None until there is one, and
            always without a frequency or presence penalty.
        bias: float32 `[vocab]` on the device; None until it is used, and always without `logit_bias`.
    """

    def __init__(
        self, params: SamplingParams, default_penalty: float, reasoning: ReasoningTokens | None = None
    ) -> None:
        self.params = params
        self.reasoning = None if reasoning is None else ReasoningState(reasoning, params.max_reasoning_tokens)
        self.penalty = default_penalty if params.repetition_penalty is None else params.repetition_penalty
        self.generator: torch.Generator | None = None
        if params.temperature >= GREEDY_BELOW:
            self.generator = torch.Generator()
            if params.seed is None:
                self.generator.seed()
            else:
                self.generator.manual_seed(params.seed)
        self.generated: Tensor | None = None
        self.counts: Tensor | None = None
        self.bias: Tensor | None = None

    def record(self, token: Tensor, vocab_size: int) -> None:
        """Add a token, int64 `[]` on the device, to what the penalties apply to. Those of a reasoning are not: the
        answer says the same words again."""
        place = token.view(1)
        shown = None if self.reasoning is None else self.reasoning.record(token).view(1)
        if self.params.frequency_penalty or self.params.presence_penalty:
            if self.counts is None:
                self.counts = torch.zeros(vocab_size, device=token.device)
            one = torch.ones(1, device=token.device) if shown is None else shown.float()
            self.counts.index_add_(0, place, one)
        if self.penalty == 1.0:
            return
        if self.generated is None:
            self.generated = torch.zeros(vocab_size, dtype=torch.bool, device=token.device)
        if shown is None:
            self.generated.index_fill_(0, place, True)
        else:
            self.generated.index_copy_(0, place, self.generated[place] | shown)

    def add_bias(self, scores: Tensor) -> Tensor:
        """Scores `[vocab]` plus `logit_bias`."""
        if self.bias is None:
            pairs = bias_pairs(self.params)
            cuda = scores.device.type == "cuda"
            host = torch.zeros(scores.shape, pin_memory=cuda)
            host[torch.tensor([token for token, _ in pairs])] = torch.tensor(
                [value for _, value in pairs], dtype=host.dtype
            )
            self.bias = host.to(scores.device, non_blocking=cuda)
        return scores + self.bias

    def subtract_counts(self, scores: Tensor) -> Tensor:
        """Scores `[vocab]` less the frequency and presence penalties."""
        if self.counts is None:
            return scores
        params = self.params
        return scores - params.frequency_penalty * self.counts - params.presence_penalty * (self.counts > 0).float()


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[SamplingState]) -> Tensor:
    """Choose the next token of every sequence and record it.

    Args:
        logits: `[B, vocab]`, any floating dtype; not changed.
        rows: the state of each sequence, in the order of the rows.

    Returns:
        int64 `[B]` on the device of the logits.
    """
    scores = _each(logits.float(), rows, [bool(row.params.logit_bias) for row in rows], SamplingState.add_bias)
    scores = _penalise(scores, rows)  # [B, vocab]
    scores = _each(scores, rows, [row.counts is not None for row in rows], SamplingState.subtract_counts)
    reasons = [row.reasoning is not None for row in rows]
    scores = _each(scores, rows, reasons, _mask_reasoning)
    random = [k for k, row in enumerate(rows) if row.generator is not None]
    if len(random) < len(rows):
        tokens = scores.argmax(-1)
    if random:
        drawn = _draw(_select(scores, random), [rows[k] for k in random])
        tokens = drawn if len(random) == len(rows) else _replace(tokens, random, drawn)
    tokens = _each(tokens, rows, reasons, _end_reasoning)
    for token, row in zip(tokens, rows, strict=True):
        row.record(token, scores.shape[-1])
    return tokens


def _mask_reasoning(row: SamplingState, scores: Tensor) -> Tensor:
    return scores if row.reasoning is None else row.reasoning.mask(scores)


def _end_reasoning(row: SamplingState, token: Tensor) -> Tensor:
    return token if row.reasoning is None else row.reasoning.force(token)


def _each(
    scores: Tensor, rows: Sequence[SamplingState], chosen: Sequence[bool],
    change: Callable[[SamplingState, Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """Scores `[B, vocab]`, or tokens `[B]`, with some rows changed, each by itself."""
    places = [k for k, wanted in enumerate(chosen) if wanted]
    if not places:
        return scores
    return _replace(scores, places, torch.stack([change(rows[k], scores[k]) for k in places]))


def _penalise(scores: Tensor, rows: Sequence[SamplingState]) -> Tensor:
    """Logits of generated tokens: divided if positive, multiplied if negative (CTRL, arXiv 1909.05858)."""
    penalised = [k for k, row in enumerate(rows) if row.generated is not None]
    if not penalised:
        return scores
    picked = _select(scores, penalised)  # [P, vocab]
    generated = torch.stack([mask for k in penalised if (mask := rows[k].generated) is not None])
    penalty = _column([rows[k].penalty for k in penalised], scores)
    changed = torch.where(generated, torch.where(picked > 0, picked / penalty, picked * penalty), picked)
    return changed if len(penalised) == len(rows) else _replace(scores, penalised, changed)


def _draw(scores: Tensor, rows: Sequence[SamplingState]) -> Tensor:
    """One random token per row: int64 `[R]` from scores `[R, vocab]`."""
    temperature = _column([row.params.temperature for row in rows], scores)
    scores = (scores - scores.amax(-1, keepdim=True)) / temperature
    # Not normalised: the most probable token has weight 1. A softmax would add in an order that depends on the batch.
    mass = _mass(_top_p(_min_p(_top_k(scores, rows).exp(), rows), rows))  # [R, vocab]
    uniform = _column([float(torch.rand((), dtype=torch.float64, generator=row.generator)) for row in rows], mass, REAL)
    target = (uniform * mass[:, -1:].to(uniform.dtype)).long()
    tokens = torch.searchsorted(mass, target, right=True)[:, 0]
    return tokens.clamp(max=mass.shape[-1] - 1)  # NaN logits must not become an id that there is not


def _mass(weights: Tensor) -> Tensor:
    """Cumulative sum of weights, int64: exact, so that it does not depend on the order of addition."""
    return (weights * FIXED_POINT).long().cumsum(-1)


def _top_k(scores: Tensor, rows: Sequence[SamplingState]) -> Tensor:
    vocab = scores.shape[-1]
    limits = [row.params.top_k if 0 < row.params.top_k < vocab else vocab for row in rows]
    limited = [k for k, limit in enumerate(limits) if limit < vocab]
    if not limited:
        return scores
    picked = _select(scores, limited)
    best = picked.topk(max(limits[k] for k in limited)).values
    lowest = torch.stack([row[limits[k] - 1] for row, k in zip(best, limited, strict=True)])[:, None]
    return _replace(scores, limited, picked.masked_fill(picked < lowest, -torch.inf))


def _min_p(weights: Tensor, rows: Sequence[SamplingState]) -> Tensor:
    if not any(row.params.min_p for row in rows):
        return weights
    return weights.masked_fill(weights < _column([row.params.min_p for row in rows], weights), 0.0)


def _top_p(weights: Tensor, rows: Sequence[SamplingState]) -> Tensor:
    """Keep the smallest set of tokens that reaches top_p; of equal weights the lower id comes first."""
    limited = [k for k, row in enumerate(rows) if row.params.top_p < 1]
    if not limited:
        return weights
    picked = _select(weights, limited)  # [L, vocab]
    top_p = _column([rows[k].params.top_p for k in limited], picked, REAL)
    total = (picked * FIXED_POINT).long().sum(-1, keepdim=True)
    limit = total.to(top_p.dtype) * top_p  # [L, 1]
    if picked.device.type == "cpu":
        kept = torch.stack([_head_nucleus(row, bound) for row, bound in zip(picked, limit, strict=True)])
    else:
        kept = _nucleus(picked, limit)
    return _replace(weights, limited, kept)


def _nucleus(weights: Tensor, limit: Tensor) -> Tensor:
    """Weights `[L, vocab]` with 0 for every token whose predecessors, in descending order, reach the limit `[L, 1]`."""
    ordered, index = weights.sort(descending=True, stable=True, dim=-1)
    keep = torch.empty_like(ordered, dtype=torch.bool)
    keep[:, :1] = True  # the most probable token stays however small top_p is
    keep[:, 1:] = _mass(ordered)[:, :-1].to(limit.dtype) < limit
    return torch.zeros_like(ordered).scatter(-1, index, ordered.where(keep, 0.0))


def _head_nucleus(weights: Tensor, limit: Tensor) -> Tensor:
    """The same for one row `[vocab]` on a CPU: where the largest weights reach the limit, only those are sorted.

    On a vocabulary of 150,000 this takes a tenth of the time. A GPU would have to synchronise.
    """
    lowest = weights.topk(min(HEAD, len(weights))).values[-1]
    ids = (weights >= lowest).nonzero()[:, 0]  # ascending, so that equal weights keep their order
    head = weights[ids]
    if (head * FIXED_POINT).long().sum() < limit:
        return _nucleus(weights[None], limit[None])[0]
    return torch.zeros_like(weights).index_copy(0, ids, _nucleus(head[None], limit[None])[0])


def _select(table: Tensor, rows: Sequence[int]) -> Tensor:
    """Rows of a table; indices on the host select views, so nothing is copied to the device."""
    return table if len(rows) == len(table) else torch.stack([table[k] for k in rows])


def _replace(table: Tensor, rows: Sequence[int], values: Tensor) -> Tensor:
    """The table with other values in some rows."""
    if len(rows) == len(table):
        return values
    replaced = list(table)
    for k, value in zip(rows, values, strict=True):
        replaced[k] = value
    return torch.stack(replaced)


def _column(values: Sequence[float], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """One value per row, `[R, 1]` on the device of `like`, without synchronising."""
    cuda = like.device.type == "cuda"
    dtype = dtype or like.dtype
    if like.device.type == "mps" and dtype == torch.float64:  # MPS has no float64
        dtype = torch.float32
    host = torch.tensor(values, dtype=dtype, pin_memory=cuda)[:, None]
    return host.to(like.device, non_blocking=cuda)


@dataclass(frozen=True)
class Logprobs:
    """Log-probabilities of a batch on the device, before penalties and temperature.

    Attributes:
        chosen: float32 `[B]`, natural logarithm of each chosen token's probability.
        top_ids: int64 `[B, K]`, the most probable tokens, best first.
        top_values: float32 `[B, K]`, theirs.
    """

    chosen: Tensor
    top_ids: Tensor
    top_values: Tensor


@torch.inference_mode()
def batch_logprobs(logits: Tensor, tokens: Tensor, top: int) -> Logprobs:
    """Log-probabilities of every row, without synchronising.

    Args:
        logits: `[B, vocab]`.
        tokens: int64 `[B]`, the chosen tokens.
        top: alternatives per row, K; the most that a row of the batch asks for.
    """
    logs = logits.float().log_softmax(-1)
    best = logs.topk(min(top, logs.shape[-1]), dim=-1)
    return Logprobs(logs.gather(-1, tokens[:, None])[:, 0], best.indices, best.values)


def log_probabilities(logits: Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """The same for one row of logits `[vocab]`, on the host: of the token and of the `top` most probable ones."""
    found = batch_logprobs(logits[None], torch.tensor([token], device=logits.device), top)
    pairs = list(zip(found.top_ids[0].tolist(), found.top_values[0].tolist(), strict=True))
    return float(found.chosen[0]), pairs
