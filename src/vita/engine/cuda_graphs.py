"""CUDA graph decode: decode steps recorded once and replayed.

The block table of a step lies on the device. It is sent only when a sequence joins or leaves, since a step advances the
lengths itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vita.kernels.cuda_graph import capture
from vita.kernels.triton.decode_attention import SPLITS
from vita.model.decoder import Decoder
from vita.model.fused_decode import FusedDecode, block_table_rows
from vita.model.fused_weights import FusedWeights
from vita.model.kv_cache import KVCache

SIZES = (1, 2, 4, 8, 16)  # sequences that a step is recorded for


@dataclass
class _Recorded:
    step: FusedDecode
    graph: torch.cuda.CUDAGraph | None = None
    table: list[list[int]] = field(default_factory=list)  # on the device, once everything queued has run


class CudaGraphDecode:
    """A `DecodeRunner` whose calls are asynchronous on a GPU.

    Args:
        decoder: its linear layers become views of fused weights (`FusedWeights`).
        quantized_kv_cache: the caches are int8.
        splits: as in `FusedWeights`.

    Attributes:
        weights: fused, for `CudaGraphPrefill` too.
    """

    def __init__(self, decoder: Decoder, *, quantized_kv_cache: bool, splits: int = SPLITS) -> None:
        self._quantized = quantized_kv_cache
        dtype, device = decoder.norm.weight.dtype, decoder.device
        self._spare = KVCache(decoder.config, 1, dtype=dtype, device=device, quantized=quantized_kv_cache)
        self._cuda = device.type == "cuda"
        # Recorded before the first request, which compiles the kernels.
        with torch.cuda.device_of(decoder.norm.weight):
            self.weights = FusedWeights(decoder, splits)
            with torch.inference_mode():
                self._recorded = {size: self._record(size) for size in SIZES}

    @staticmethod
    def supports(decoder: Decoder) -> bool:
        """Whether the kernels know this decoder's sizes."""
        return FusedWeights.supports(decoder)

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        with torch.cuda.device_of(tokens):
            return self._step(tokens, caches)

    def _step(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        if any(cache.length >= cache.capacity for cache in caches):
            raise ValueError("a KV cache is full")
        count = len(caches)
        recorded = self._for(count)
        step = recorded.step
        wanted = block_table_rows(caches, step.rows, self._spare)
        known, recorded.table = recorded.table, []  # if this step raises, the next one sends the table again
        if wanted != known:
            step.block_table.copy_(self._sent(wanted), non_blocking=True)
        step.tokens[:count].copy_(tokens)
        self._run(recorded)
        recorded.table = [[*row[:4], row[4] + row[5], row[5]] for row in wanted]
        for cache in caches:
            cache.advance(1)
        return step.logits[:count, : self.weights.vocab].clone()  # the next step writes there

    def _for(self, count: int) -> _Recorded:
        """The smallest recorded step for so many sequences."""
        return self._recorded[next(size for size in SIZES if size >= count)]

    def _record(self, size: int) -> _Recorded:
        recorded = _Recorded(FusedDecode(self.weights, size, quantized_kv_cache=self._quantized))
        step = recorded.step
        # The warm-up writes into the spare cache.
        step.block_table.copy_(self._sent(block_table_rows([], size, self._spare)))
        if not self._cuda:
            return recorded
        recorded.graph = capture(step)
        return recorded

    def _run(self, recorded: _Recorded) -> None:
        if recorded.graph is None:
            recorded.step()
        else:
            recorded.graph.replay()

    def _sent(self, rows: list[list[int]]) -> Tensor:
        """In pinned memory, for an asynchronous copy."""
        return torch.tensor(rows, dtype=torch.int64, pin_memory=self._cuda)
