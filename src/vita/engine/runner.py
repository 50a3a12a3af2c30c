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
from vita.model.kv_cache import KVCache, KVCacheBatch

log = logging.getLogger("vita")
MAX_BATCH = triton_kernels.MAX_BATCH  # requests in one step, on a CPU too
BATCHING_WINDOW = 0.25  # of the last step's time: how long a step waits for requests that took part in the one before


class DecodeRunner(Protocol):
    """One position more for each of some requests.

    Attributes:
        patience: seconds that are well spent waiting for one more request.
    """

    batching_window: float

    def __call__(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Feed int64 `[n]` tokens, one a cache, 1 to 16 of them, and extend the caches; logits `[n, vocab]`."""


class EagerDecode:
    """The decoder's own operations, one by one.

    Args:
        decoder: on CUDA its embedding table moves there, so that no step waits for the host.
        failed: what went wrong with a recording; while it is kept, so is the graph that PyTorch's allocator may still
            point to.
    """

    def __init__(self, decoder: Decoder, failed: Exception | None = None) -> None:
        self._decoder, self._failed = decoder, failed
        if decoder.device.type == "cuda":
            decoder.set_embedding(decoder.embed.weight.to(decoder.device))
        self.batching_window = 0.0

    def __call__(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        start = time.perf_counter()
        rows = self._decoder.embed_tokens(tokens)[:, None]  # [n, 1, H]
        logits = self._decoder.logits(self._decoder(rows, KVCacheBatch(caches)))[:, 0]  # [n, vocab]
        self.batching_window = BATCHING_WINDOW * (time.perf_counter() - start)
        return logits


def choose_decode_runner(decoder: Decoder, *, quantized_kv_cache: bool) -> DecodeRunner:
    """The fastest way for the device that the decoder is on; the reason is logged once."""
    device = decoder.device
    if device.type != "cuda":
        return EagerDecode(decoder)
    if not triton_kernels.available(device):
        log.info("decode steps: operation by operation, since Triton is not there or the GPU is older than Ampere")
        return EagerDecode(decoder)
    from vita.engine.cuda_graphs import CudaGraphDecode  # needs Triton

    if not CudaGraphDecode.supports(decoder):
        log.info("decode steps: operation by operation, since our kernels do not know heads of this width")
        return EagerDecode(decoder)
    try:
        steps = CudaGraphDecode(decoder, quantized_kv_cache=quantized_kv_cache)
    except Exception as error:  # of Triton, CUDA or its driver; slower is better than not at all, and is said
        log.warning("decode steps: operation by operation, since recording them failed: %s", error)
        return EagerDecode(decoder, error)
    log.info("decode steps: our own kernels, recorded as CUDA graphs")
    return steps
