"""Decode runners: one decode step of several sequences, eager, by native calls, or as a CUDA graph.

A GPU computes a step of the released model in about four milliseconds, less than Python needs to launch its operations
one by one. There it is recorded as a CUDA graph for 1, 2, 4, 8 and 16 sequences.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from vita.kernels import triton as triton_kernels
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache, KVCacheBatch
from vita.model.native_decode import NativeDecode, choose_native_decode
from vita.model.native_layers import NativeLayers, choose_native_layers
from vita.planning.flops import weight_bytes

log = logging.getLogger("vita")
MAX_BATCH = triton_kernels.MAX_BATCH  # sequences in one step, on a CPU too


class DecodeRunner(Protocol):
    """Computes one more position of each of several sequences."""

    def __call__(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Feed the newest token of each sequence and extend its cache.

        Args:
            tokens: int64 `[n]` on the decoder's device, n from 1 to 16.
            caches: one a sequence.

        Returns:
            logits `[n, vocab]`; on CUDA they are queued, not computed yet.
        """


class EagerDecode:
    """The decoder's own operations, one by one.

    Args:
        decoder: on CUDA its embedding table moves there, so that no step waits for the host.
        native: computes the layers of steps that it supports.
        failed: why recording a graph failed. The exception holds the graph, which PyTorch's allocator may still use.
    """

    def __init__(
        self, decoder: Decoder, *, native: NativeLayers | None = None, failed: Exception | None = None
    ) -> None:
        self._decoder, self._native, self._failed = decoder, native, failed
        if decoder.device.type == "cuda":
            decoder.set_embedding(decoder.embed.weight.to(decoder.device))

    def __call__(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """See `DecodeRunner`."""
        if self._native is not None and len(tokens) <= self._native.max_rows:
            return self._native(tokens, caches)
        rows = self._decoder.embed_tokens(tokens)[:, None]  # [n, 1, H]
        return self._decoder.logits(self._decoder(rows, KVCacheBatch(caches)))[:, 0]  # [n, vocab]


def step_bytes(decode: DecodeRunner, decoder: Decoder) -> int:
    """Bytes of weights that one decode step reads."""
    return decode.weight_bytes if isinstance(decode, NativeDecode) else weight_bytes(decoder)


def choose_decode_runner(decoder: Decoder, *, quantized_kv_cache: bool) -> DecodeRunner:
    """The fastest runner for the decoder's device; the reason is logged."""
    device = decoder.device
    if device.type != "cuda":
        plain = decoder.norm.weight.dtype == torch.float32 and not quantized_kv_cache  # the KV caches are float32
        native = choose_native_decode(decoder) if plain else None
        return native or EagerDecode(decoder, native=choose_native_layers(decoder))
    if not triton_kernels.available(device):
        log.info("eager decode: Triton is missing or the GPU is older than Ampere")
        return EagerDecode(decoder)
    from vita.engine.cuda_graphs import CudaGraphDecode  # needs Triton
    from vita.engine.prefill_graphs import CudaGraphPrefill

    if not CudaGraphDecode.supports(decoder):
        log.info("eager decode: the Triton kernels do not support heads of this width")
        return EagerDecode(decoder)
    try:
        steps = CudaGraphDecode(decoder, quantized_kv_cache=quantized_kv_cache)
    except Exception as error:  # of Triton, CUDA or its driver; eager is slower, but works
        log.warning("eager decode: recording CUDA graphs failed: %s", error)
        return EagerDecode(decoder, failed=error)
    log.info("decode: recorded as CUDA graphs")
    try:
        decoder.fast_prefill = CudaGraphPrefill(steps.weights, quantized_kv_cache=quantized_kv_cache)
    except Exception as error:  # as above
        log.warning("prefill by the decoder's own operations: recording CUDA graphs failed: %s", error)
    return steps
