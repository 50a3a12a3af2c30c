"""A decode step of several requests: computed operation by operation, or recorded once and replayed.

Owns how a step is run on a device. A GPU does the step of the released model in about four milliseconds, less than
Python needs to ask for its operations one by one; there it is recorded as a CUDA graph, for 1, 2, 4, 8 and 16
requests, and asked for in one call. Does not know who the requests are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from vita.kernels import triton as triton_kernels
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache, Together

log = logging.getLogger("vita")
MOST_ROWS = triton_kernels.MOST_ROWS  # requests in one step, on a CPU too
PATIENCE = 0.25  # of the last step's time: how long a step waits for requests that took part in the one before


class Steps(Protocol):
    """One position more for each of some requests.

    Attributes:
        patience: seconds that are well spent waiting for one more request.
    """

    patience: float

    def __call__(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Feed int64 `[n]` tokens, one a cache, 1 to 16 of them, and extend the caches; logits `[n, vocab]`."""


class PlainSteps:
    """The decoder's own operations, one by one.

    Args:
        decoder: on CUDA its embedding table moves there, so that no step waits for the host.
        failed: what went wrong with a recording; while it is kept, so is the graph that PyTorch's allocator may still
            point to.
    """

    def __init__(self, decoder: Decoder, failed: Exception | None = None) -> None:
        self._decoder, self._failed = decoder, failed
        if decoder.device.type == "cuda":
            decoder.keep_table(decoder.embed.weight.to(decoder.device))
        self.patience = 0.0

    def __call__(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        start = time.perf_counter()
        rows = self._decoder.rows(tokens)[:, None]  # [n, 1, H]
        logits = self._decoder.logits(self._decoder(rows, Together(caches)))[:, 0]  # [n, vocab]
        self.patience = PATIENCE * (time.perf_counter() - start)
        return logits


def choose_steps(decoder: Decoder, *, rounded_cache: bool) -> Steps:
    """The fastest way for the device that the decoder is on; the reason is logged once."""
    device = decoder.device
    if device.type != "cuda":
        return PlainSteps(decoder)
    if not triton_kernels.available(device):
        log.info("decode steps: operation by operation, since Triton is not there or the GPU is older than Ampere")
        return PlainSteps(decoder)
    from vita.engine.cuda_graphs import GraphedSteps  # needs Triton

    if not GraphedSteps.fit(decoder):
        log.info("decode steps: operation by operation, since our kernels do not know heads of this width")
        return PlainSteps(decoder)
    try:
        steps = GraphedSteps(decoder, rounded_cache=rounded_cache)
    except Exception as error:  # of Triton, CUDA or its driver; slower is better than not at all, and is said
        log.warning("decode steps: operation by operation, since recording them failed: %s", error)
        return PlainSteps(decoder, error)
    log.info("decode steps: our own kernels, recorded as CUDA graphs")
    return steps
