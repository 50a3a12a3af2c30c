"""A decode step on CUDA: six to twelve kernel launches per layer, no host synchronisation.

Computes what `model.decoder` computes for one new position of each request. All that changes from step to step (tokens,
lengths, cache addresses) is in device memory, so a step can be captured once as a CUDA graph and replayed
(`engine.cuda_graphs`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vita.kernels.matmul import Matmul, Matmuls
from vita.kernels.triton import MAX_BATCH
from vita.kernels.triton.decode_attention import TABLE_COLUMNS, allocate_workspace, decode_attention
from vita.kernels.triton.elementwise import embedding
from vita.layers.rope import cos_sin
from vita.model.fused_weights import FusedWeights
from vita.model.kv_cache import KVCache


class FusedDecode:
    """The decode step for a fixed number of rows, one row a request.

    A step of one row has GEMVs. Every other has GEMMs of 16 rows, whose time does not depend on how many are used: so a
    sequence gets the same logits in every batch of 2 to 16.

    Args:
        weights: of the decoder.
        rows: 1 to 16.
        quantized_kv_cache: the requests' caches are int8.

    Attributes:
        rows: requests.
        tokens: int64 `[1 or 16]`: each request's newest token id; set before a step.
        block_table: int64 `[rows, TABLE_COLUMNS]`, rows as in `block_table_rows`; set when requests change. A step
            advances the lengths in it.
        logits: `[1 or 16, head_channels]` of the last step; the first `vocab` channels are logits.

    Raises:
        ValueError: `rows` is out of range.
    """

    def __init__(self, weights: FusedWeights, rows: int, *, quantized_kv_cache: bool) -> None:
        if not 1 <= rows <= MAX_BATCH:
            raise ValueError(f"{rows} rows, not 1 to {MAX_BATCH}")
        self.weights, self.quantized_kv_cache = weights, quantized_kv_cache
        config, sizes, device, dtype = weights.config, weights.sizes, weights.device, weights.dtype

        self.rows, gemm_rows = rows, 1 if rows == 1 else MAX_BATCH

        def buffer(width: int) -> Tensor:
            return torch.zeros(gemm_rows, width, dtype=dtype, device=device)

        self.tokens = torch.zeros(gemm_rows, dtype=torch.int64, device=device)
        self.block_table = torch.zeros(rows, TABLE_COLUMNS, dtype=torch.int64, device=device)
        self._x = buffer(config.hidden_size)
        self._qkv = buffer((sizes.num_heads + 2 * sizes.num_kv_heads) * sizes.head_dim)
        self._attended = buffer(sizes.num_heads * sizes.head_dim)
        self._intermediate = buffer(config.intermediate_size)
        self.logits = buffer(weights.head_channels)
        self._workspace = allocate_workspace(rows, sizes, device)

    def __call__(self) -> None:
        """Compute one step into `logits`, and advance the lengths in `block_table`."""
        weights, x, rows = self.weights, self._x, self.rows
        layers, eps = weights.config.num_layers, weights.eps
        embedding(weights.embedding, self.tokens, x)  # [gemm rows, H]
        positions = self.block_table[:, 4:5]  # [rows, 1]
        cos, sin = (t.flatten(1) for t in cos_sin(positions, weights.rope_frequencies, x.dtype))  # [rows, head_dim]
        for layer, block in enumerate(weights.blocks):
            self._pick(block.qkv)(x, self._qkv, norm_weight=block.attn_norm, eps=eps)
            decode_attention(
                self._qkv[:rows], self.block_table, layers, layer, cos, sin, weights.sizes,
                self._workspace, self._attended[:rows], quantized=self.quantized_kv_cache,
            )  # fmt: skip
            self._pick(block.o)(self._attended, x, residual=x)
            self._pick(block.gate_up)(x, self._intermediate, norm_weight=block.mlp_norm, eps=eps, swiglu=True)
            self._pick(block.down)(self._intermediate, x, residual=x)
        self._pick(weights.head)(x, self.logits, norm_weight=weights.norm, eps=eps)
        self.block_table[:, 4] += self.block_table[:, 5]

    def _pick(self, matmuls: Matmuls) -> Matmul:
        return matmuls.one if self.rows == 1 else matmuls.batch


def block_table_rows(caches: Sequence[KVCache], rows: int, spare: KVCache) -> list[list[int]]:
    """Rows of the block table of a `FusedDecode`: addresses of keys, values, scales; capacity, length, increment.

    Args:
        caches: of the requests.
        rows: of the table. Rows without a request write to the first position of `spare`, and never advance.
        spare: a cache of at least one position.
    """

    def row(cache: KVCache, length: int, increment: int) -> list[int]:
        scales = 0 if cache.scales is None else cache.scales.data_ptr()
        return [cache.keys.data_ptr(), cache.values.data_ptr(), scales, cache.capacity, length, increment]

    return [row(cache, cache.length, 1) for cache in caches] + [row(spare, 0, 0)] * (rows - len(caches))
