"""Weights of decoder layers as `decode_layer.c` reads them, and the two calls of a layer.

A layer of the released size is bound by memory, and yet its fourteen operations cost 5 % of its time in Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vita.kernels.cpu.block_table import address
from vita.kernels.cpu.decoder_weights import FORMATS, LayerStruct, LayerWeights, LinearStruct, LinearWeights

LAYER_DTYPES = (torch.bfloat16, torch.int8, torch.uint8)  # of weights that a layer multiplies with


class DecodeLayers:
    """The layers of one decoder in bfloat16. Keeps their tensors alive.

    Args:
        library: with `decode_layer.c`.
        allocate: memory for one step, uint8 `[n]`.
        layers: in their order; weights bfloat16, int8 or int4 (uint8), all else bfloat16.
        head_dim: a multiple of 32.
        eps: of the norms.

    Attributes:
        max_rows: requests that can decode together; 0 where a kernel is missing.
    """

    def __init__(
        self, library: ctypes.CDLL, allocate: Callable[[int], Tensor], layers: Sequence[LayerWeights], head_dim: int,
        eps: float,
    ) -> None:  # fmt: skip
        self._library, self._allocate = library, allocate
        self._layers, self._head_dim, self._eps = layers, head_dim, eps
        self._structs = [_layer_struct(layer) for layer in layers]
        self.max_rows = min(
            int(library.vita_decode_layer_max_rows(ctypes.byref(struct), head_dim)) for struct in self._structs
        )

    def __len__(self) -> int:
        return len(self._structs)

    def workspace(self, rows: int) -> Tensor:
        """For so many rows of any layer, uint8."""
        sizes = (self._library.vita_decode_layer_workspace(ctypes.byref(struct), rows) for struct in self._structs)
        return self._allocate(max(sizes))

    def begin(
        self, layer: int, x: Tensor, cos: Tensor, sin: Tensor, workspace: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What comes before a layer's attention.

        Args:
            layer: its index.
            x: bfloat16 `[rows, hidden]`, contiguous.
            cos, sin: bfloat16, `rows` times d values each, contiguous.
            workspace: see `workspace`.

        Returns:
            q `[rows, heads, 1, d]`, k and v `[rows, kv_heads, 1, d]`, q and k with rotary position embedding.
        """
        weights, d = self._layers[layer], self._head_dim
        q, k, v = (x.new_empty(len(x), len(linear.weight) // d, 1, d) for linear in (weights.q, weights.k, weights.v))
        self._library.vita_decode_layer_begin(
            ctypes.byref(self._structs[layer]), address(x), address(q), address(k), address(v), address(cos),
            address(sin), address(workspace), len(x), d, self._eps,
        )  # fmt: skip
        return q, k, v

    def end(self, layer: int, x: Tensor, attended: Tensor, workspace: Tensor) -> None:
        """What comes after a layer's attention: x becomes the layer's output.

        Args:
            layer: its index.
            x: as for `begin`; overwritten.
            attended: bfloat16 `[rows, heads, 1, d]`.
            workspace: see `workspace`.
        """
        attended = attended.contiguous()
        self._library.vita_decode_layer_end(
            ctypes.byref(self._structs[layer]), address(x), address(attended), address(workspace), len(x), self._eps
        )


def _layer_struct(layer: LayerWeights) -> LayerStruct:
    linears = (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down)
    return LayerStruct(address(layer.attn_norm), address(layer.mlp_norm), *map(_linear_struct, linears))


def _linear_struct(linear: LinearWeights) -> LinearStruct:
    weight = linear.weight
    n_in = weight.shape[1] * (2 if weight.dtype == torch.uint8 else 1)
    return LinearStruct(
        address(weight), address(linear.scale), address(linear.bias), len(weight), n_in, FORMATS[weight.dtype]
    )
