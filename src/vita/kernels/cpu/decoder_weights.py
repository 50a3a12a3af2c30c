"""Weights of decoder layers, and the C structs that the kernels of a decode step read them by."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.uint8: 3}  # as in weights.h; uint8: int4


@dataclass(frozen=True)
class LinearWeights:
    """One linear layer.

    Attributes:
        weight: float32, bfloat16 or int8 `[out, in]`, or int4 as uint8 `[out, in / 2]`; contiguous.
        scale: bfloat16 `[out]` of int8 weights, `[out, in / 64]` of int4 weights.
        bias: `[out]`, or None.
    """

    weight: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class LayerWeights:
    """One layer: norms `[hidden]`, and its linear layers."""

    attn_norm: Tensor
    mlp_norm: Tensor
    q: LinearWeights
    k: LinearWeights
    v: LinearWeights
    o: LinearWeights
    gate: LinearWeights
    up: LinearWeights
    down: LinearWeights


class LinearStruct(ctypes.Structure):
    """`Linear` of weights.h."""

    _fields_ = (
        ("w", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("bias", ctypes.c_void_p),
        ("n_out", ctypes.c_int64), ("n_in", ctypes.c_int64), ("format", ctypes.c_int64),
    )  # fmt: skip


class LayerStruct(ctypes.Structure):
    """`Layer` of decode_step_f32.c and decode_layer.c."""

    _fields_ = (
        ("attn_norm", ctypes.c_void_p), ("mlp_norm", ctypes.c_void_p),
        *((name, LinearStruct) for name in ("q", "k", "v", "o", "gate", "up", "down")),
    )  # fmt: skip
