"""Continuous batching: requests that decode at the same time share every step's weights.

Owns who steps with whom; `engine.runner` computes. There is no thread of its own: one of the waiting requests leads and
asks for a step for all of them, so a request joins or leaves between any two steps. Does not know about text or
sampling.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from vita.engine.decode import MAX_BATCH, DecodeRunner
from vita.model.kv_cache import KVCache


@dataclass(eq=False)
class _Ticket:
    """One request's wish for one step."""

    token: Tensor  # int64 [], on the model's device
    cache: KVCache
    logits: Tensor | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether the step was computed, or failed."""
        return self.logits is not None or self.error is not None


class Batcher:
    """Decode steps for any number of threads.

    Args:
        steps: the model.
        turn: held while the model computes; prefill and encoders take it too.
    """

    def __init__(self, steps: DecodeRunner, turn: AbstractContextManager[object]) -> None:
        self._steps, self._turn = steps, turn
        self._changed = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._expected: set[int] = set()  # caches of the requests that are likely to come back at once
        self._leading = False  # somebody computes a step, or is about to
        self.steps = self.rows = 0  # so far

    def step(self, token: Tensor, cache: KVCache) -> Tensor:
        """Feed one token of one request.

        Args:
            token: its newest id, int64 `[]`.
            cache: its own, extended in place.

        Returns:
            logits `[vocab]` of the next token.
        """
        ticket = _Ticket(token, cache)
        with self._changed:
            self._waiting.append(ticket)
            self._expected.add(id(cache))
            self._changed.notify_all()
        while self._must_lead(ticket):
            try:
                with self._turn:
                    self._compute(self._gather())
            finally:
                with self._changed:
                    self._leading = False
                    self._changed.notify_all()
        if ticket.error is not None:
            raise ticket.error
        assert ticket.logits is not None
        return ticket.logits

    def _must_lead(self, ticket: _Ticket) -> bool:
        """Wait until the ticket is served (False), or nobody leads and its owner has to (True).

        Nobody waits for the turn itself but the leader: a request whose logits are ready goes on at once, and comes
        back while the next leader gathers.
        """
        with self._changed:
            self._changed.wait_for(lambda: ticket.done or not self._leading)
            if not ticket.done:
                self._leading = True
            return not ticket.done

    def leave(self, cache: KVCache) -> None:
        """The request has ended; nobody waits for it any more."""
        with self._changed:
            self._expected.discard(id(cache))
            self._waiting = [ticket for ticket in self._waiting if ticket.cache is not cache]
            self._changed.notify_all()

    def _gather(self) -> list[_Ticket]:
        """Those that step now. Waits a moment for requests of the last step, which come back as soon as they have
        chosen their token; who does not is no longer waited for."""
        with self._changed:
            self._changed.wait_for(self._all_here, timeout=self._steps.batching_window)
            self._expected = {id(ticket.cache) for ticket in self._waiting}
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        return batch

    def _all_here(self) -> bool:
        return len(self._waiting) >= min(len(self._expected), MAX_BATCH)

    @torch.inference_mode()
    def _compute(self, batch: list[_Ticket]) -> None:
        self.steps, self.rows = self.steps + 1, self.rows + len(batch)
        try:
            tokens = torch.stack([ticket.token for ticket in batch])
            logits = self._steps(tokens, [ticket.cache for ticket in batch])  # [B, vocab]
        except Exception as error:  # each request raises it where it waits
            for ticket in batch:
                ticket.error = error
            return
        except BaseException:  # Ctrl-C in the thread that leads: the others must not wait for ever
            for ticket in batch:
                ticket.error = RuntimeError("the step was interrupted by another request's thread")
            raise
        for ticket, row in zip(batch, logits, strict=True):
            ticket.logits = row
