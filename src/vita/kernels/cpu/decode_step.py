"""Weights of a decoder as `decode_step_f32.c` reads them: structs of addresses and sizes.

The struct of a decoder keeps its tensors alive. Norms and biases are copied to float32, and float32 weights that are
exact in bfloat16 to bfloat16: half the bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vita.kernels.cpu.block_table import address
from vita.kernels.cpu.decoder_weights import FORMATS, LayerStruct, LayerWeights, LinearStruct, LinearWeights

STEP_DTYPES = (torch.float32, torch.bfloat16, torch.int8)  # of weights that the step multiplies with


@dataclass(frozen=True)
class DecoderWeights:
    """A decoder.

    Attributes:
        layers: in their order.
        norm: `[hidden]`.
        head: to the vocabulary.
        heads, kv_heads, head_dim: of attention.
        eps: of the norms.
    """

    layers: Sequence[LayerWeights]
    norm: Tensor
    head: LinearWeights
    heads: int
    kv_heads: int
    head_dim: int
    eps: float


class _Decoder(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(LayerStruct)), ("norm", ctypes.c_void_p), ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p), ("head", LinearStruct),
        *((name, ctypes.c_int64) for name in ("count", "hidden", "inner", "heads", "kv_heads", "d")),
        ("eps", ctypes.c_double),
    )  # fmt: skip


class DecoderStruct:
    """The C struct of a decoder.

    Args:
        weights: see `DecoderWeights`.

    Attributes:
        vocab: output channels of the head.
        positions: rows of the rotary tables.
    """

    def __init__(self, weights: DecoderWeights) -> None:
        self._tensors: list[Tensor] = []
        self._layers = (LayerStruct * len(weights.layers))(*(self._layer(layer) for layer in weights.layers))
        self.struct = _Decoder(
            self._layers, self._floats(weights.norm), None, None, self._linear(weights.head), len(weights.layers),
            len(weights.norm), len(weights.layers[0].gate.weight), weights.heads, weights.kv_heads, weights.head_dim,
            weights.eps,
        )  # fmt: skip
        self.vocab, self.positions = len(weights.head.weight), 0
        self._rope: tuple[Tensor, Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(tensor.nbytes for tensor in self._tensors)

    def set_rope(self, cos: Tensor, sin: Tensor) -> None:
        """Set the rotary tables: float32 `[positions, d]`, contiguous."""
        self._rope, self.positions = (cos, sin), len(cos)
        self.struct.cos, self.struct.sin = address(cos), address(sin)

    def _keep(self, tensor: Tensor | None) -> int | None:
        if tensor is not None:
            self._tensors.append(tensor)
        return address(tensor)

    def _floats(self, values: Tensor | None) -> int | None:
        return self._keep(None if values is None else values.float().contiguous())

    def _linear(self, linear: LinearWeights) -> LinearStruct:
        weight = linear.weight
        if weight.dtype == torch.float32:
            short = weight.bfloat16()
            weight = short if torch.equal(short.float(), weight) else weight
        (n_out, n_in), form = weight.shape, FORMATS[weight.dtype]
        return LinearStruct(self._keep(weight), self._keep(linear.scale), self._floats(linear.bias), n_out, n_in, form)

    def _layer(self, layer: LayerWeights) -> LayerStruct:
        linears = (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down)
        return LayerStruct(self._floats(layer.attn_norm), self._floats(layer.mlp_norm), *map(self._linear, linears))
