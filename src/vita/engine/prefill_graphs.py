"""CUDA graph prefill: short prefills recorded once and replayed.

Launching the kernels of a prefill takes the host longer than a GPU needs for a few hundred positions. So it is recorded
for some lengths. A shorter prompt is padded; the padded rows are neither stored nor attended to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vita.kernels.cuda_graph import capture
from vita.model.fused_prefill import FusedPrefill, ShortPrefill, prefill_table
from vita.model.fused_weights import FusedWeights
from vita.model.kv_cache import KVCache, KVCacheBatch, KVCacheRagged

log = logging.getLogger("vita")
LENGTHS = (16, 32, 64, 128, 256, 512)  # positions that a prefill is recorded for


@dataclass
class _Recorded:
    run: ShortPrefill
    graph: torch.cuda.CUDAGraph | None = None


class CudaGraphPrefill:
    """A `model.decoder.FastPrefill`: graphs for up to 512 positions of one sequence, fused kernels for the rest.

    Args:
        weights: of the decoder.
        quantized_kv_cache: the caches are int8.
        lengths: to record, in rising order.
    """

    def __init__(self, weights: FusedWeights, *, quantized_kv_cache: bool, lengths: Sequence[int] = LENGTHS) -> None:
        self._fused, self._weights, self._quantized = FusedPrefill(weights), weights, quantized_kv_cache
        self._cuda = weights.device.type == "cuda"
        with torch.cuda.device_of(weights.norm), torch.inference_mode():
            self._pool = torch.cuda.graph_pool_handle() if self._cuda else None
            longest_first = [self._record(length) for length in sorted(lengths, reverse=True)]  # they share memory
            self._recorded = longest_first[::-1]

    def hidden_states(self, embeds: Tensor, cache: KVCache | KVCacheBatch | KVCacheRagged) -> Iterator[Tensor]:
        """See `FastPrefill`."""
        count = embeds.shape[1]
        recorded = next((r for r in self._recorded if r.run.rows >= count), None)
        if recorded is None or not isinstance(cache, KVCache):
            yield from self._fused.hidden_states(embeds, cache)
            return
        if cache.length + count > cache.capacity:
            raise ValueError("a KV cache is full")
        yield embeds
        yield self._replay(recorded, embeds[0], cache)[None]

    def logits(self, hidden: Tensor) -> Tensor:
        """See `FastPrefill`."""
        return self._fused.logits(hidden)

    @torch.inference_mode()
    def _replay(self, recorded: _Recorded, embeds: Tensor, cache: KVCache) -> Tensor:
        """`[n, H]` to final hidden states `[n, H]`."""
        run, count = recorded.run, len(embeds)
        with torch.cuda.device_of(embeds):
            table = torch.tensor(prefill_table(cache, count), dtype=torch.int64, pin_memory=self._cuda)
            run.block_table.copy_(table, non_blocking=True)
            run.embeds[:count].copy_(embeds)
            if recorded.graph is None:
                run()
            else:
                recorded.graph.replay()
            cache.advance(count)
            return run.hidden[:count].clone()  # the next replay writes there

    def _record(self, length: int) -> _Recorded:
        run = ShortPrefill(self._weights, length, quantized_kv_cache=self._quantized)  # its count of real rows is 0
        return _Recorded(run, capture(run, self._pool) if self._cuda else None)
