"""A decode step of the Qwen2 decoder on CUDA: six launches a block, no word from the host.

Owns the order of the launches and the memory between them. What differs from step to step (tokens, lengths, where
caches lie) is on the device, so that a step can be recorded once and replayed (`engine.cuda_graphs`). Computes what
`model.decoder` computes, of one new position a request. Does not know who asks, or when an answer ends.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from vita.kernels.triton import MAX_BATCH
from vita.kernels.triton.decode_attention import COLUMNS, MIN_HEAD_DIM, SPLITS, Heads, attend_step, room
from vita.kernels.triton.elementwise import take
from vita.kernels.triton.linear import product
from vita.kernels.triton.pinned import PinnedTensor
from vita.kernels.weight import Weight
from vita.layers.rope import frequencies, turned
from vita.model.decoder import Decoder, DecoderBlock
from vita.model.fused_weights import join, weight_view
from vita.model.kv_cache import KVCache

log = logging.getLogger("vita")


@dataclass(frozen=True)
class _Block:
    attn_gain: Tensor
    qkv: Weight
    o: Weight
    mlp_gain: Tensor
    gate_up: Weight
    down: Weight


class FusedWeights:
    """A decoder's weights as the step wants them: queries, keys and values joined, gate and up too.

    The decoder's own layers become views of them, so memory is used once.

    Args:
        decoder: the model.
        splits: parts that attention cuts a request's keys into.
    """

    def __init__(self, decoder: Decoder, splits: int = SPLITS) -> None:
        self.decoder = decoder
        self.blocks = [_block(cast(DecoderBlock, layer)) for layer in decoder.layers]
        self.head = weight_view(decoder.head)
        config = decoder.config
        self.heads = Heads(config.num_heads, config.num_kv_heads, config.head_dim, splits)
        self.eps = config.rms_norm_eps
        self.radians = frequencies(config.head_dim, config.rope_theta, decoder.device)
        self._locked = _locked(decoder)  # kept as long as steps may read it
        self.table = decoder.embed.weight

    @staticmethod
    def supports(decoder: Decoder) -> bool:
        """Whether the kernels know these sizes."""
        c = decoder.config
        width = c.head_dim
        return width >= MIN_HEAD_DIM and not width & (width - 1)


def _locked(decoder: Decoder) -> PinnedTensor | None:
    """The embedding table where a step can read it: in locked memory of the host, where it can be had."""
    table, device = decoder.embed.weight, decoder.device
    if table.device == device:
        return None
    try:
        locked = PinnedTensor(table, device)
    except MemoryError as error:
        log.info("the embedding table goes to the GPU: %s", error)
        decoder.set_embedding(table.to(device))
        return None
    decoder.set_embedding(locked.values)
    return locked


def _block(block: DecoderBlock) -> _Block:
    attn, mlp = block.attn, block.mlp
    return _Block(
        block.attn_norm.weight, join([attn.q, attn.k, attn.v]), weight_view(attn.o),
        block.mlp_norm.weight, join([mlp.gate, mlp.up]), weight_view(mlp.down),
    )  # fmt: skip


class FusedStep:
    """The step of a fixed number of requests.

    Args:
        weights: of the decoder.
        rows: requests, 1 to 16.
        rounded: their caches hold eight bits.

    Attributes:
        tokens: int64 `[rows]`, to be set before a step: the newest id of each.
        table: int64 `[rows, COLUMNS]`, to be set when requests change (`rows_of`); a step moves the lengths on itself.
        logits: `[rows, vocab]`, of the last step.
    """

    def __init__(self, weights: FusedWeights, rows: int, *, rounded: bool) -> None:
        if not 1 <= rows <= MAX_BATCH:
            raise ValueError(f"{rows} rows, not 1 to {MAX_BATCH}")
        self.weights, self.rounded = weights, rounded
        decoder, heads = weights.decoder, weights.heads
        device, dtype = decoder.device, decoder.norm.weight.dtype
        wide, vocabulary = decoder.config.intermediate_size, len(weights.table)

        def space(width: int) -> Tensor:
            return torch.empty(rows, width, dtype=dtype, device=device)

        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.table = torch.zeros(rows, COLUMNS, dtype=torch.int64, device=device)
        self._x, self._qkv = space(decoder.config.hidden_size), space((heads.count + 2 * heads.groups) * heads.width)
        self._seen, self._hidden, self.logits = space(heads.count * heads.width), space(wide), space(vocabulary)
        self._parts = room(rows, heads, device)

    def __call__(self) -> None:
        """Compute one step, and move the lengths in the table on."""
        weights, heads, x = self.weights, self.weights.heads, self._x
        decoder, eps = weights.decoder, weights.eps
        take(weights.table, self.tokens, x)  # [rows, H]
        config = decoder.config
        cos, sin = (angle.flatten(1) for angle in turned(self.table[:, 4:5], weights.radians, x.dtype))  # [rows, width]
        for index, block in enumerate(weights.blocks):
            product(x, block.qkv, self._qkv, gain=block.attn_gain, eps=eps)
            attend_step(
                self._qkv, self.table, config.num_layers, index, cos, sin, heads, self._parts, self._seen,
                rounded=self.rounded,
            )  # fmt: skip
            product(self._seen, block.o, x, add=x)
            product(x, block.gate_up, self._hidden, gain=block.mlp_gain, eps=eps, gate=True)
            product(self._hidden, block.down, x, add=x)
        product(x, weights.head, self.logits, gain=decoder.norm.weight, eps=eps)
        self.table[:, 4] += self.table[:, 5]


def rows_of(caches: Sequence[KVCache], rows: int, spare: KVCache) -> list[list[int]]:
    """What stands in the table of a `FusedStep`.

    Args:
        caches: of the requests.
        rows: of the table; those left over write into `spare`, and stay at its first position.
        spare: a cache of one position or more.
    """

    def row(cache: KVCache, length: int, grows: int) -> list[int]:
        scales = 0 if cache.scales is None else cache.scales.data_ptr()
        return [cache.keys.data_ptr(), cache.values.data_ptr(), scales, cache.capacity, length, grows]

    return [row(cache, cache.length, 1) for cache in caches] + [row(spare, 0, 0)] * (rows - len(caches))
