"""Choosing the next token from logits.

Owns greedy and random choice, penalties and log-probabilities. Does not know when to stop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vita.errors import RequestError
from vita.types import SamplingParams


def check_params(params: SamplingParams) -> None:
    """Refuses what no sampler can do.

    Raises:
        RequestError: naming the parameter and its range.
    """
    penalty = 1.0 if params.repetition_penalty is None else params.repetition_penalty
    rules = [
        ("max_tokens", params.max_tokens, params.max_tokens >= 1, "1 or more"),
        ("temperature", params.temperature, 0.0 <= params.temperature <= 10.0, "between 0 and 10"),
        ("top_p", params.top_p, 0.0 < params.top_p <= 1.0, "over 0 and at most 1"),
        ("top_k", params.top_k, params.top_k >= 0, "0 (no limit) or more"),
        ("min_p", params.min_p, 0.0 <= params.min_p <= 1.0, "between 0 and 1"),
        ("repetition_penalty", penalty, 0.01 <= penalty <= 100.0, "between 0.01 and 100"),
        ("seed", params.seed, params.seed is None or -(2**63) <= params.seed < 2**63, "a whole number of 64 bits"),
        ("logprobs", params.logprobs, 0 <= params.logprobs <= 100, "between 0 and 100"),
    ]
    for name, value, fine, allowed in rules:
        if not fine:
            raise RequestError(f"must be {allowed}, not {value}", where=name)
    if any(s == "" for s in params.stop):
        raise RequestError("must not hold an empty string", where="stop")


class Sampler:
    """Draws the tokens of one answer.

    Args:
        params: as the user asked.
        default_penalty: the checkpoint's repetition penalty, used when the user names none.
        device: where the logits are.
    """

    def __init__(self, params: SamplingParams, default_penalty: float, device: torch.device) -> None:
        self.params = params
        self.penalty = default_penalty if params.repetition_penalty is None else params.repetition_penalty
        self.generator: torch.Generator | None = None
        if params.temperature > 0:
            self.generator = torch.Generator(device=device)
            if params.seed is None:
                self.generator.seed()
            else:
                self.generator.manual_seed(params.seed)
        self._seen: list[Tensor] = []  # ids of the answer so far, if they are penalised

    def __call__(self, logits: Tensor) -> int:
        """The next id from logits `[vocab]`."""
        return int(self.choose(logits))

    def choose(self, logits: Tensor) -> Tensor:
        """The same, int64 `[]` on the device, which nobody waits for."""
        scores = logits.float()
        if self._seen:
            scores = self._penalised(scores)
        token = scores.argmax() if self.generator is None else self._draw(scores)
        if self.penalty != 1.0:
            self._seen.append(token)
        return token

    def _penalised(self, scores: Tensor) -> Tensor:
        """Each token of the answer so far: divided if positive, multiplied if negative (CTRL, arXiv 1909.05858)."""
        ids = torch.stack(self._seen)  # an id that is there twice gets the same score twice
        picked = scores[ids]
        return scores.scatter(0, ids, torch.where(picked > 0, picked / self.penalty, picked * self.penalty))

    def _draw(self, scores: Tensor) -> Tensor:
        p = self.params
        scores = (scores - scores.max()) / p.temperature  # the largest is 0, so that a tiny temperature is greedy
        if p.top_k and p.top_k < scores.numel():
            scores = scores.masked_fill(scores < scores.topk(p.top_k).values[-1], -torch.inf)
        probs = scores.softmax(-1)
        if p.min_p > 0:
            probs = probs.masked_fill(probs < p.min_p * probs.max(), 0.0)
        if p.top_p < 1:
            ordered, index = probs.sort(descending=True)
            # Keep the smallest set that reaches top_p: a token stays if the mass before it is still short of it.
            before = ordered.cumsum(-1) - ordered
            probs = torch.zeros_like(probs).index_copy(0, index, ordered.masked_fill(before >= p.top_p, 0.0))
        # The first of independent arrivals at these rates; torch.multinomial draws alike, and waits for the device.
        return (probs / torch.empty_like(probs).exponential_(generator=self.generator)).argmax()


def log_probabilities(logits: Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural-log probability of a token and of the `top` likeliest ones, before any temperature."""
    logs = logits.float().log_softmax(-1)
    best = logs.topk(min(top, logs.numel()))
    pairs = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return float(logs[token]), pairs
