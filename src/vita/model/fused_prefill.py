"""Prefill on CUDA by fused weights: about twelve kernel launches per layer.

Computes what `model.decoder` computes for the new positions of one sequence or several. `ShortPrefill` is the same for
a fixed number of positions whose KV cache is found through a block table on the device, so that it can be captured as a
CUDA graph (`engine.cuda_graphs`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vita.kernels.triton import MAX_BATCH
from vita.kernels.triton.backends import pad_rows
from vita.kernels.triton.decode_attention import TABLE_COLUMNS
from vita.kernels.triton.elementwise import TritonElementwise
from vita.kernels.triton.prefill_attention import append_kv, prefill_attention, rope_qkv
from vita.layers.attention import attend
from vita.layers.rope import cos_sin
from vita.model.fused_weights import FusedBlock, FusedWeights
from vita.model.kv_cache import KVCache, KVCacheBatch, KVCacheRagged


class FusedPrefill:
    """Prefill and the head, for prompts of any length.

    Args:
        weights: of the decoder.
    """

    def __init__(self, weights: FusedWeights) -> None:
        self._weights = weights

    def hidden_states(self, embeds: Tensor, cache: KVCache | KVCacheBatch | KVCacheRagged) -> Iterator[Tensor]:
        """As `Decoder.hidden_states` for one row of a batch: yields `[1, n, H]` for every layer, `embeds` first."""
        weights, n = self._weights, embeds.shape[1]
        positions = cache.positions(n, embeds.device)  # [1, n]
        cos, sin = (t.flatten(0, 2) for t in cos_sin(positions, weights.rope_frequencies, embeds.dtype))  # [n, d]
        x = embeds[0].clone()  # [n, H]: the residual stream, which layers update in place
        for layer, block in enumerate(weights.blocks):
            yield x[None]
            qkv = _qkv(x, block, weights)
            q, k, v = rope_qkv(qkv, cos, sin, weights.sizes)
            out = cache.attend(attend, layer, q, k, v, None)  # [1, heads, n, d]
            _rest(x, out.transpose(1, 2).reshape(n, -1), block, weights)
        cache.advance(n)
        yield final_norm(x, weights)[None]

    def logits(self, hidden: Tensor) -> Tensor:
        """As `Decoder.logits`: final hidden states `[batch, n, H]` to `[batch, n, vocab]`."""
        weights = self._weights
        rows = hidden.reshape(-1, hidden.shape[-1]).contiguous()
        count = len(rows)
        if 1 < count <= MAX_BATCH:
            rows = pad_rows(rows)
        head = weights.head.one if count == 1 else weights.head.batch if count <= MAX_BATCH else weights.head.many
        out = torch.empty(len(rows), weights.head_channels, dtype=rows.dtype, device=rows.device)
        head(rows, out)
        return out[:count, : weights.vocab].reshape(*hidden.shape[:-1], weights.vocab)


class ShortPrefill:
    """Prefill of a fixed number of positions of one sequence, of which only the first may be real.

    Args:
        weights: of the decoder.
        rows: positions.
        quantized_kv_cache: the sequence's cache is int8.

    Attributes:
        embeds: `[rows, H]`: set before a run; the values behind the real rows do not matter.
        block_table: int64 `[TABLE_COLUMNS]`: as in `kernels.triton.prefill_attention.append_kv`; set before a run.
        hidden: `[rows, H]` of the last run: the final hidden states.
    """

    def __init__(self, weights: FusedWeights, rows: int, *, quantized_kv_cache: bool) -> None:
        dtype, device = weights.dtype, weights.device
        self._weights, self._quantized, self.rows = weights, quantized_kv_cache, rows
        self.embeds = torch.zeros(rows, weights.config.hidden_size, dtype=dtype, device=device)
        self.block_table = torch.zeros(TABLE_COLUMNS, dtype=torch.int64, device=device)
        self.hidden = torch.empty_like(self.embeds)

    def __call__(self) -> None:
        """Compute into `hidden`, and write the new positions into the cache."""
        weights, table = self._weights, self.block_table
        layers = weights.config.num_layers
        positions = (table[4] + torch.arange(self.rows, device=table.device))[None]  # [1, rows]
        cos, sin = (t.flatten(0, 2) for t in cos_sin(positions, weights.rope_frequencies, self.embeds.dtype))
        x = self.embeds.clone()
        for layer, block in enumerate(weights.blocks):
            q, k, v = rope_qkv(_qkv(x, block, weights), cos, sin, weights.sizes)
            append_kv(k, v, table, layers, layer, quantized=self._quantized)
            out = prefill_attention(q, table, layers, layer, weights.sizes, quantized=self._quantized)
            _rest(x, out, block, weights)
        self.hidden.copy_(final_norm(x, weights))


def prefill_table(cache: KVCache, count: int) -> list[int]:
    """The block table of a `ShortPrefill` of `count` real rows."""
    scales = 0 if cache.scales is None else cache.scales.data_ptr()
    return [cache.keys.data_ptr(), cache.values.data_ptr(), scales, cache.capacity, cache.length, count]


def final_norm(x: Tensor, weights: FusedWeights) -> Tensor:
    """The decoder's last norm, of `[n, H]`."""
    return TritonElementwise().rms_norm(x, weights.norm, weights.eps)


def _qkv(x: Tensor, block: FusedBlock, weights: FusedWeights) -> Tensor:
    sizes = weights.sizes
    qkv = x.new_empty(len(x), (sizes.num_heads + 2 * sizes.num_kv_heads) * sizes.head_dim)
    block.qkv.many(x, qkv, norm_weight=block.attn_norm, eps=weights.eps)
    return qkv


def _rest(x: Tensor, attended: Tensor, block: FusedBlock, weights: FusedWeights) -> None:
    """What follows attention in a block; `x` `[n, H]` is updated in place."""
    block.o.many(attended, x, residual=x)
    intermediate = x.new_empty(len(x), weights.config.intermediate_size)
    block.gate_up.many(x, intermediate, norm_weight=block.mlp_norm, eps=weights.eps, swiglu=True)
    block.down.many(intermediate, x, residual=x)
