"""A decode step on a CPU by two native calls a layer, around attention: large decoders in bfloat16.

The kernels are those of the decoder's operations, and so are the numbers. Python's part of a step is less.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vita.kernels.cpu.bindings import kernels
from vita.kernels.cpu.decode_layer import LAYER_DTYPES, DecodeLayers
from vita.layers.attention import attend
from vita.layers.rope import rope_tables
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache, KVCacheBatch
from vita.model.native_decode import layers_of


class NativeLayers:
    """The decode step of one decoder, whose weights stay where they are. See `choose_native_layers`.

    Attributes:
        max_rows: requests that can decode together.
    """

    def __init__(self, decoder: Decoder, layers: DecodeLayers) -> None:
        self._decoder, self._layers, self.max_rows = decoder, layers, layers.max_rows

    def __call__(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """See `engine.decode.DecodeRunner`; at most `max_rows` of them.

        Raises:
            ValueError: a cache is full.
        """
        decoder, layers, batch = self._decoder, self._layers, KVCacheBatch(caches)
        config = decoder.config
        positions = batch.positions(1, tokens.device)
        cos, sin = rope_tables(positions, config.head_dim, config.rope_theta, torch.bfloat16)  # [rows, 1, 1, d]
        x = decoder.embed_tokens(tokens)  # [rows, H]; a copy, which the kernels overwrite
        workspace = layers.workspace(len(x))
        for index in range(len(layers)):
            q, k, v = layers.begin(index, x, cos, sin, workspace)
            layers.end(index, x, batch.attend(attend, index, q, k, v, None), workspace)
        batch.advance(1)
        return decoder.logits(decoder.norm(x)[:, None])[:, 0]  # [rows, vocab]


def choose_native_layers(decoder: Decoder) -> NativeLayers | None:
    """The native layers of a decoder in bfloat16.

    Returns:
        None for a decoder that is not in bfloat16 on a CPU, or streamed from disk, for weights of a type that the
        kernels do not know, for heads whose width is no multiple of 32, and without a compiler.
    """
    weight = decoder.norm.weight
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return None
    weights, native = layers_of(decoder, LAYER_DTYPES), kernels()
    if weights is None or native is None:
        return None
    layers = native.decode_layers(weights, decoder.config.head_dim, decoder.config.rms_norm_eps)
    return None if layers is None else NativeLayers(decoder, layers)
