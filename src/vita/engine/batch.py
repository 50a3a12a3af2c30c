"""Continuous batching: requests that decode at the same time share every step's weights.

Owns who steps with whom. There is no thread of its own: whichever request gets the turn first computes one step for
all that wait, so a request joins or leaves between any two steps. Does not know about text or sampling.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from vita.decoder.kv_cache import KVCache, Together
from vita.decoder.qwen2 import Decoder

MOST_ROWS = 16  # requests in one step
PATIENCE = 0.25  # of the last step's time: how long a step waits for requests that took part in the one before


@dataclass(eq=False)
class _Ticket:
    """One request's wish for one step."""

    token: int
    cache: KVCache
    logits: Tensor | None = None
    error: Exception | None = None


class Batcher:
    """Decode steps for any number of threads.

    Args:
        decoder: the model.
        turn: held while the model computes; prefill and encoders take it too.
    """

    def __init__(self, decoder: Decoder, turn: AbstractContextManager[object]) -> None:
        self._decoder, self._turn = decoder, turn
        self._changed = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._expected: set[int] = set()  # caches of the requests that are likely to come back at once
        self._seconds = 0.0  # the last step took
        self.largest = 0  # rows that ever shared a step

    def step(self, token: int, cache: KVCache) -> Tensor:
        """Feed one token of one request.

        Args:
            token: its newest id.
            cache: its own, extended in place.

        Returns:
            logits `[vocab]` of the next token.
        """
        ticket = _Ticket(token, cache)
        with self._changed:
            self._waiting.append(ticket)
            self._expected.add(id(cache))
            self._changed.notify_all()
        while ticket.logits is None:
            with self._turn:
                if ticket.logits is None and ticket.error is None:
                    self._compute(self._gather())
            if ticket.error is not None:
                raise ticket.error
        return ticket.logits

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
            self._changed.wait_for(self._all_here, timeout=PATIENCE * self._seconds)
            self._expected = {id(ticket.cache) for ticket in self._waiting}
            batch, self._waiting = self._waiting[:MOST_ROWS], self._waiting[MOST_ROWS:]
        return batch

    def _all_here(self) -> bool:
        return len(self._waiting) >= min(len(self._expected), MOST_ROWS)

    @torch.inference_mode()
    def _compute(self, batch: list[_Ticket]) -> None:
        start = time.perf_counter()
        self.largest = max(self.largest, len(batch))
        try:
            table = self._decoder.embed.weight
            rows = table[torch.tensor([ticket.token for ticket in batch], device=table.device)][:, None]  # [B, 1, H]
            caches = [ticket.cache for ticket in batch]
            hidden = self._decoder(rows, caches[0] if len(caches) == 1 else Together(caches))
            logits = self._decoder.logits(hidden)[:, 0]  # [B, vocab]
        except Exception as error:  # each request raises it where it waits
            for ticket in batch:
                ticket.error = error
            return
        self._seconds = time.perf_counter() - start
        for ticket, row in zip(batch, logits, strict=True):
            ticket.logits = row
