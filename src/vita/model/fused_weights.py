"""Fuse the weights of linear layers with one input (QKV, gate-up of the MLP) and choose their matmuls.

A fused layer is one kernel launch instead of two or three. The layers stay usable: their weights become views of the
fused memory, or they multiply by the converted copy where a backend has made one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vita.kernels.matmul import Matmul, MatmulChooser, Matmuls
from vita.kernels.triton.backends import cuda_chooser
from vita.kernels.triton.decode_attention import MIN_HEAD_DIM, SPLITS, AttentionSizes
from vita.kernels.triton.pinned import PinnedTensor
from vita.kernels.weight import BLOCK_CHANNELS, Weight
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
    qkv: Matmuls
    o: Matmuls
    mlp_norm: Tensor
    gate_up: Matmuls
    down: Matmuls


class FusedWeights:
    """A decoder's weights for `FusedDecode`, with QKV and gate-up fused.

    The decoder's own layers become views of them, so no memory is used twice. An embedding table on the host is pinned,
    so that kernels can read it; if it cannot be pinned, it moves to the GPU.

    Args:
        decoder: the model, on the device to compute on.
        splits: parts that attention splits a request's keys into.
        chooser: of the matmuls' backends; default: those of CUDA.

    Attributes:
        config, device, dtype: of the decoder.
        norm: weight of the final RMSNorm.
        vocab: tokens.
        head: of `head_channels` channels: a multiple of 64 where the memory behind the weight allows it, since GEMM
            libraries are slow at other widths. Only the first `vocab` are logits.
    """

    def __init__(self, decoder: Decoder, splits: int = SPLITS, chooser: MatmulChooser | None = None) -> None:
        # Not the decoder itself, which may refer to the weights: a cycle would keep GPU memory until Python's next GC.
        self.config, self.device, self.norm = decoder.config, decoder.device, decoder.norm.weight
        self.dtype = self.norm.dtype
        chooser = chooser or cuda_chooser(self.dtype)
        with torch.no_grad():
            self.blocks = [_fuse_block(cast(DecoderBlock, layer), chooser) for layer in decoder.layers]
            head = weight_view(decoder.head)
            if head.scale is None:
                values, bias = padded_rows(head.values), head.bias
                if bias is not None:
                    bias = functional.pad(bias, (0, len(values) - len(bias)))
                head = Weight(values, None, bias)
            self.head, self.head_channels = chooser.choose(head, convert=False), len(head.values)
        self.vocab = len(decoder.embed.weight)
        log.info("matmuls: %s", ", ".join(sorted(chooser.chosen)))
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


def _fuse_block(block: DecoderBlock, chooser: MatmulChooser) -> FusedBlock:
    attn, mlp = block.attn, block.mlp
    return FusedBlock(
        block.attn_norm.weight, _choose([attn.q, attn.k, attn.v], chooser), _choose([attn.o], chooser),
        block.mlp_norm.weight, _choose([mlp.gate, mlp.up], chooser, swiglu=True), _choose([mlp.down], chooser),
    )  # fmt: skip


def _choose(layers: Sequence[nn.Module], chooser: MatmulChooser, *, swiglu: bool = False) -> Matmuls:
    """The matmuls of layers with one input. If a backend converted the weight, the stored one is freed."""
    weight = fuse_linears(layers) if len(layers) > 1 else weight_view(layers[0])
    matmuls = chooser.choose(weight, swiglu=swiglu)
    if matmuls.converted:
        start, channels = 0, len(weight.values)
        for layer in layers:
            assert isinstance(layer, QuantizedLinear)
            layer.converted = _Channels(matmuls.many, channels, slice(start, start + layer.out_features))
            layer.weight, layer.scale = layer.weight.to("meta"), layer.scale.to("meta")
            start += layer.out_features
    return matmuls


@dataclass(frozen=True)
class _Channels:
    """Some output channels of a fused matmul, for the layer whose they are.

    Attributes:
        matmul: of the fused layer.
        channels: of the fused layer.
        part: those that are returned.
    """

    matmul: Matmul
    channels: int
    part: slice

    def __call__(self, rows: Tensor) -> Tensor:
        """`[n, in]` to `[n, channels of the part]`."""
        out = torch.empty(len(rows), self.channels, dtype=rows.dtype, device=rows.device)
        self.matmul(rows, out)
        return out[:, self.part]


def padded_rows(weight: Tensor) -> Tensor:
    """A weight `[out, in]` with the rows behind it in its memory, up to a multiple of 64; itself if there are none.

    `checkpoint.load` reserves them for the head; they are zeros.
    """
    rows = -(-len(weight) // BLOCK_CHANNELS) * BLOCK_CHANNELS
    behind = weight.untyped_storage().nbytes() // weight.element_size() - weight.storage_offset()
    if not weight.is_contiguous() or behind < rows * weight.shape[1]:
        return weight
    return weight.as_strided((rows, weight.shape[1]), (weight.shape[1], 1))


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
