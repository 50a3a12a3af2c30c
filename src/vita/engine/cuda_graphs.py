"""Decode steps recorded as CUDA graphs and replayed.

Owns the recording, which step serves how many requests, and keeping the step's table on the device up to date: it is
sent only when a request joins or leaves, since a step moves the lengths on by itself. Does not know what a step
computes (`model.fused_decode`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vita.kernels.triton.decode_attention import SPLITS
from vita.model.decoder import Decoder
from vita.model.fused_decode import FusedDecode, block_table_rows
from vita.model.fused_weights import FusedWeights
from vita.model.kv_cache import KVCache

BATCHING_WINDOW = 0.7  # of a step's time
SIZES = (1, 2, 4, 8, 16)  # requests that a step is recorded for


@dataclass
class _Recorded:
    step: FusedDecode
    graph: torch.cuda.CUDAGraph | None = None
    table: list[list[int]] = field(default_factory=list)  # what is on the device, once all that is asked for has run


class CudaGraphDecode:
    """As `engine.runner.DecodeRunner`; calls are asynchronous on a GPU.

    Args:
        decoder: its linear layers become views of joined weights (`FusedWeights`).
        quantized_kv_cache: the requests' caches hold eight bits.
        splits: as in `FusedWeights`.
    """

    def __init__(self, decoder: Decoder, *, quantized_kv_cache: bool, splits: int = SPLITS) -> None:
        self._rounded = quantized_kv_cache
        dtype, device = decoder.norm.weight.dtype, decoder.device
        self._spare = KVCache(decoder.config, 1, dtype=dtype, device=device, quantized=quantized_kv_cache)
        self._cuda = device.type == "cuda"
        self._timer: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        self.batching_window = 0.0
        # All before the first request: its kernels are compiled, and no other thread is at work on the GPU.
        with torch.cuda.device_of(decoder.norm.weight):
            self._weights = FusedWeights(decoder, splits)
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
            raise ValueError("a cache of keys and values is full")
        count = len(caches)
        recorded = self._for(count)
        step = recorded.step
        wanted = block_table_rows(caches, len(step.tokens), self._spare)
        known, recorded.table = recorded.table, []  # whatever interrupts what follows, the table is sent again
        if wanted != known:
            step.block_table.copy_(self._sent(wanted), non_blocking=True)
        step.tokens[:count].copy_(tokens)
        self._run(recorded)
        recorded.table = [[*row[:4], row[4] + row[5], row[5]] for row in wanted]
        for cache in caches:
            cache.advance(1)
        return step.logits[:count].clone()  # the next step writes there

    def _for(self, count: int) -> _Recorded:
        """The smallest step that has room for so many requests."""
        return self._recorded[next(size for size in SIZES if size >= count)]

    def _record(self, size: int) -> _Recorded:
        recorded = _Recorded(FusedDecode(self._weights, size, quantized_kv_cache=self._rounded))
        step = recorded.step
        # What runs now writes into the spare cache.
        step.block_table.copy_(self._sent(block_table_rows([], size, self._spare)))
        if not self._cuda:
            return recorded
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            step()  # compiles the kernels, which cannot be done while recording
        current.wait_stream(side)
        recorded.graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may ask the GPU for memory meanwhile; that must not spoil the recording.
            with torch.cuda.graph(recorded.graph, stream=side, capture_error_mode="thread_local"):
                step()
        finally:
            torch.cuda.set_stream(current)  # a recording that fails leaves its own behind
        return recorded

    def _run(self, recorded: _Recorded) -> None:
        if recorded.graph is None:
            recorded.step()
            return
        if self._timer is None or self._timer[1].query():
            if self._timer is not None:
                # A request whose id is on its way is back within a step, while the GPU is busy: worth most of it.
                self.batching_window = BATCHING_WINDOW * self._timer[0].elapsed_time(self._timer[1]) / 1000
            self._timer = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self._timer[0].record()
            recorded.graph.replay()
            self._timer[1].record()
        else:
            recorded.graph.replay()

    def _sent(self, rows: list[list[int]]) -> Tensor:
        """Where the device can fetch it while this thread goes on."""
        return torch.tensor(rows, dtype=torch.int64, pin_memory=self._cuda)
