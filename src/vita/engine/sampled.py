"""What a step brings back: tokens that were sampled together, and what became of the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vita.engine.request import Sequence as Answer
from vita.engine.request import Token
from vita.engine.sampler import log_probabilities
from vita.engine.scheduler import WorkUnit


@dataclass(eq=False)
class Sampled:
    """Ids that were sampled together.

    Attributes:
        answers: one a row.
        ids: int64 `[n]` on the device.
        logits: `[n, vocab]`, kept if somebody wants log-probabilities.
        read: waits for the ids and copies them to the host.
        first: whether they belong to prefill: the first tokens of their answers, or the second ones behind a draft.
    """

    answers: list[Answer]
    ids: Tensor
    logits: Tensor | None
    read: Callable[[], list[int]]
    first: bool = False

    def tokens(self, raise_fatal: Callable[[Exception], None]) -> list[tuple[Answer, Token | Exception]]:
        """The ids with what was asked for beside them, or the error that computing it raised.

        Args:
            raise_fatal: raises if the device has failed.
        """
        out: list[tuple[Answer, Token | Exception]] = []
        for row, (answer, token) in enumerate(zip(self.answers, self.read(), strict=True)):
            top = answer.request.params.logprobs
            if not top or self.logits is None or answer.reason is not None:  # of an answer that ended nothing is told
                out.append((answer, Token(token)))
                continue
            try:
                logprob, best = log_probabilities(self.logits[row], token, top)
                out.append((answer, Token(token, logprob, tuple(best))))
            except Exception as error:  # a vocabulary of floats may be more than a full GPU has left
                raise_fatal(error)
                out.append((answer, error))
        return out


@dataclass
class Launched:
    """A step that was computed or queued.

    Attributes:
        sampled: tokens of the decode step and first tokens.
        failed: sequences whose step raised, and the error.
        finished: the unit that was completed.
        logits: of the requests whose prompt the unit completed, by request: `[1, vocab]`, with a draft `[2, vocab]`.
        unit_error: what the unit raised.
        started: when it began, by the runner's clock.
        seconds: of the decode step on a CPU; 0 on a GPU, where it is only queued.
    """

    sampled: list[Sampled] = field(default_factory=list)
    failed: list[tuple[Answer, Exception]] = field(default_factory=list)
    finished: WorkUnit | None = None
    logits: dict[int, Tensor] = field(default_factory=dict)
    unit_error: tuple[WorkUnit, Exception] | None = None
    started: float = 0.0
    seconds: float = 0.0


def reading(ids: Tensor) -> Callable[[], list[int]]:
    """Start to copy ids to the host. The function returned waits for them, and for nothing that is queued later."""
    if ids.device.type != "cuda":
        values = ids.tolist()
        return lambda: values
    host, arrived = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True), torch.cuda.Event()
    with torch.cuda.device_of(ids):
        host.copy_(ids, non_blocking=True)
        arrived.record()

    def read() -> list[int]:
        arrived.synchronize()
        return [int(value) for value in host.tolist()]

    return read
