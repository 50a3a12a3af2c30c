"""A decode step on a CPU by one native call: all layers and the head of a small decoder, in float32.

A step of the embedded model takes 0.5 ms to compute, and its operations took Python and PyTorch eight times as long to
call. Large decoders, in bfloat16, take `model.native_layers`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch
from torch import Tensor, nn

from vita.kernels.cpu.decode_step import STEP_DTYPES, DecoderStruct, DecoderWeights
from vita.kernels.cpu.decoder_weights import LayerWeights, LinearWeights
from vita.kernels.cpu.float32 import Float32Kernels, load_float32_kernels
from vita.layers.linear import Linear
from vita.layers.rope import rope_tables
from vita.model.decoder import Decoder, DecoderBlock
from vita.model.kv_cache import KVCache, block_table
from vita.quant.int4 import Int4Linear
from vita.quant.int8 import Int8Linear

MAX_BYTES = 256 << 20  # of weights; helper threads and memory limits are for larger decoders
ROPE_POSITIONS = 1024  # rows by which the rotary tables grow


class NativeDecode:
    """The decode step of one decoder, whose weights do not change any more. See `choose_native_decode`."""

    def __init__(self, decoder: Decoder, weights: DecoderWeights, kernels: Float32Kernels) -> None:
        self._decoder, self._kernels = decoder, kernels
        self._struct = DecoderStruct(weights)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a step reads."""
        return self._struct.nbytes

    def __call__(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """See `engine.decode.DecodeRunner`; the caches are float32.

        Raises:
            ValueError: a cache is full.
        """
        table = block_table(caches)
        longest = max(cache.length for cache in caches) + 1
        if longest > self._struct.positions:
            self._grow_rope(longest)
        embeds = self._decoder.embed_tokens(tokens).float()  # [n, H]; a copy, which the kernel overwrites
        logits = self._kernels.decode_step(self._struct, embeds, table)
        for cache in caches:
            cache.advance(1)
        return logits

    def _grow_rope(self, longest: int) -> None:
        config = self._decoder.config
        positions = torch.arange(-(-longest // ROPE_POSITIONS) * ROPE_POSITIONS)[None]
        cos, sin = rope_tables(positions, config.head_dim, config.rope_theta, torch.float32)  # [1, n, 1, d]
        self._struct.set_rope(*(table.flatten(0, 2).contiguous() for table in (cos, sin)))


def choose_native_decode(decoder: Decoder) -> NativeDecode | None:
    """The native step of a decoder, for KV caches in float32. Weights in bfloat16 stay so; all else is in float32.

    Returns:
        None for a decoder that is not on a CPU, too large, or streamed from disk, for weights in int4 or float16, and
        without a compiler.
    """
    config = decoder.config
    if decoder.device.type != "cpu" or config.head_dim % 2:
        return None
    if sum(tensor.nbytes for tensor in decoder.state_dict().values()) > MAX_BYTES:
        return None
    layers, head, kernels = layers_of(decoder, STEP_DTYPES), _linear(decoder.head, STEP_DTYPES), load_float32_kernels()
    if layers is None or head is None or kernels is None or not kernels.supports(config.head_dim):
        return None
    weights = DecoderWeights(
        layers, decoder.norm.weight, head, config.num_heads, config.num_kv_heads, config.head_dim, config.rms_norm_eps
    )
    return NativeDecode(decoder, weights, kernels)


def layers_of(decoder: Decoder, dtypes: Container[torch.dtype]) -> list[LayerWeights] | None:
    """The weights of all layers; None if one is streamed from disk, not of these dtypes, or of a type that no kernel
    knows."""
    blocks = [block for block in decoder.layers if isinstance(block, DecoderBlock) and not block._forward_hooks]
    found = [layer for layer in (_layer(block, dtypes) for block in blocks) if layer is not None]
    return found if found and len(found) == len(decoder.layers) else None


def _layer(layer: DecoderBlock, dtypes: Container[torch.dtype]) -> LayerWeights | None:
    names = (layer.attn.q, layer.attn.k, layer.attn.v, layer.attn.o, layer.mlp.gate, layer.mlp.up, layer.mlp.down)
    linears = [linear for linear in (_linear(name, dtypes) for name in names) if linear is not None]
    if len(linears) != len(names):
        return None
    return LayerWeights(layer.attn_norm.weight.detach(), layer.mlp_norm.weight.detach(), *linears)


def _linear(linear: nn.Module, dtypes: Container[torch.dtype]) -> LinearWeights | None:
    if type(linear) not in (Linear, Int8Linear, Int4Linear):  # a subclass may compute something else
        return None
    assert isinstance(linear, (Linear, Int8Linear, Int4Linear))
    bias = None if linear.bias is None else linear.bias.detach()
    scale = None if isinstance(linear, Linear) else linear.scale
    if linear.weight.dtype not in dtypes or not linear.weight.is_contiguous():
        return None
    return LinearWeights(linear.weight.detach(), scale, bias)
