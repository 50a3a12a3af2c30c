"""Fuse the weights of linear layers with one input: QKV, and gate-up of the MLP.

A fused layer is one kernel launch instead of two or three. The layers stay usable, since their weights become views of
the fused memory.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from vita.kernels.triton.decode_attention import MIN_HEAD_DIM, SPLITS, AttentionSizes
from vita.kernels.triton.pinned import PinnedTensor
from vita.kernels.weight import Weight
from vita.layers.rope import rope_frequencies
from vita.model.decoder import Decoder, DecoderBlock
from vita.quant.linear import QuantizedLinear

log = logging.getLogger("vita")


@dataclass(frozen=True)
class FusedBlock:
    """Weights of one decoder block.

    Attributes:
        attn_norm, mlp_norm: RMSNorm weights `[H]`.
        qkv: queries, keys, values `[(num_heads + 2 * num_kv_heads) * head_dim, H]`.
        o: `[H, num_heads * head_dim]`.
        gate_up: gate, then up `[2 * intermediate_size, H]`.
        down: `[H, intermediate_size]`.
    """

    attn_norm: Tensor
    qkv: Weight
    o: Weight
    mlp_norm: Tensor
    gate_up: Weight
    down: Weight


class FusedWeights:
    """A decoder's weights for `FusedDecode`, with QKV and gate-up fused.

    The decoder's own layers become views of them, so no memory is used twice. An embedding table on the host is pinned,
    so that kernels can read it; if it cannot be pinned, it moves to the GPU.

    Args:
        decoder: the model, on the device to compute on.
        splits: parts that attention splits a request's keys into.
    """

    def __init__(self, decoder: Decoder, splits: int = SPLITS) -> None:
        self.decoder = decoder
        self.blocks = [_fuse_block(cast(DecoderBlock, layer)) for layer in decoder.layers]
        self.head = weight_view(decoder.head)
        config = decoder.config
        self.sizes = AttentionSizes(config.num_heads, config.num_kv_heads, config.head_dim, splits)
        self.eps = config.rms_norm_eps
        self.rope_frequencies = rope_frequencies(config.head_dim, config.rope_theta, decoder.device)
        self._pinned = _pin_embedding(decoder)  # a reference: unpinned when it is freed, and steps may read it
        self.embedding = decoder.embed.weight

    @staticmethod
    def supports(decoder: Decoder) -> bool:
        """Whether the kernels support this decoder's head size: a power of two of at least 32."""
        head_dim = decoder.config.head_dim
        return head_dim >= MIN_HEAD_DIM and not head_dim & (head_dim - 1)


def weight_view(layer: nn.Module) -> Weight:
    """The weight of one linear layer, without a copy."""
    if isinstance(layer, QuantizedLinear):
        return Weight(layer.weight, layer.scale, layer.bias)
    assert isinstance(layer, nn.Linear)
    return Weight(layer.weight, None, layer.bias)


@torch.no_grad()
def fuse_linears(layers: Sequence[nn.Module]) -> Weight:
    """Concatenate the weights of layers along their output channels; the layers' own become views of the result.

    Args:
        layers: linear layers of one class and `in_features`, all with a bias or all without.
    """
    weights = [weight_view(layer) for layer in layers]
    values = torch.cat([w.values for w in weights])
    scale = torch.cat([w.scale for w in weights if w.scale is not None]) if weights[0].scale is not None else None
    bias = torch.cat([w.bias for w in weights if w.bias is not None]) if weights[0].bias is not None else None
    start = 0
    for layer, weight in zip(layers, weights, strict=True):
        channels = slice(start, start + len(weight.values))
        for name, fused in (("weight", values), ("scale", scale), ("bias", bias)):
            if fused is not None:
                getattr(layer, name).data = fused[channels]
        start = channels.stop
    return Weight(values, scale, bias)


def _fuse_block(block: DecoderBlock) -> FusedBlock:
    attn, mlp = block.attn, block.mlp
    return FusedBlock(
        block.attn_norm.weight, fuse_linears([attn.q, attn.k, attn.v]), weight_view(attn.o),
        block.mlp_norm.weight, fuse_linears([mlp.gate, mlp.up]), weight_view(mlp.down),
    )  # fmt: skip


def _pin_embedding(decoder: Decoder) -> PinnedTensor | None:
    """Pin an embedding table that is on the host; if that fails, move it to the GPU and return None."""
    table, device = decoder.embed.weight, decoder.device
    if table.device == device:
        return None
    try:
        pinned = PinnedTensor(table, device)
    except MemoryError as error:
        log.info("the embedding table moves to the GPU, since it cannot be pinned: %s", error)
        decoder.set_embedding(table.to(device))
        return None
    decoder.set_embedding(pinned.values)
    return pinned
