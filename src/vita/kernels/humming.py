"""Matmuls with int8 and int4 weights by the library humming-kernels (vLLM project).

It is used where it is installed (`pip install vita-engine[humming]`). It multiplies 1 to 16 rows at memory bandwidth,
and prefill without dequantising. It compiles a kernel for each shape when that is first used, which takes seconds, and
keeps it on disk. Weights are converted from the stored format.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vita.kernels.cpu.bindings import GROUP_SIZE
from vita.kernels.matmul import Backend
from vita.kernels.weight import Weight

log = logging.getLogger("vita")
ALIGNMENT = 64  # of output channels and inputs
MAX_CHANNELS = 65536  # not the head: it is in eight bits and read once a step, and its channels are odd
Finish = Callable[..., None]  # the signature of `kernels.triton.epilogue.finish`


def humming_backend(finish: Finish) -> Backend:
    """The backend; it supports nothing where the library is not installed.

    Args:
        finish: applies SwiGLU and residual.
    """
    return Backend("humming", supports, lambda weight: HummingMatmul(len(weight.values), convert(weight), finish))


def supports(weight: Weight, dtype: torch.dtype) -> bool:
    """Whether the library is installed and takes this weight, for x of this dtype."""
    if find_spec("humming") is None or weight.scale is None or dtype not in (torch.bfloat16, torch.float16):
        return False
    channels, columns = weight.values.shape
    in_features = columns * 2 if weight.values.dtype == torch.uint8 else columns
    aligned = channels % ALIGNMENT == 0 and in_features % ALIGNMENT == 0
    return aligned and channels <= MAX_CHANNELS and weight.scale.dtype == dtype


def packed_values(weight: Weight) -> Tensor:
    """The integers of a weight in the library's order: int32 `[out, in * bits / 32]`, the first value lowest.

    The library's integers are unsigned: four bits plus 8, as they are stored, or eight bits plus 128.
    """
    values = weight.values
    if values.dtype == torch.int8:
        return (values.view(torch.uint8) ^ 0x80).view(torch.int32)
    groups = values.unflatten(1, (-1, GROUP_SIZE // 2))  # byte j holds value j low and value j + 32 high
    low, high = groups & 15, groups >> 4
    nibbles = torch.cat([low, high], dim=-1).unflatten(2, (-1, 2))  # [out, groups, 32, 2]: pairs of neighbours
    return (nibbles[..., 0] | nibbles[..., 1] << 4).flatten(1).contiguous().view(torch.int32)


def convert(weight: Weight) -> torch.nn.Module:
    """The library's layer, with the weight in its format.

    Raises:
        Exception: whatever the library or its compiler raises; errors have no common class.
    """
    from humming.layer import HummingLayer

    assert weight.scale is not None
    four = weight.values.dtype == torch.uint8
    channels, columns = weight.values.shape
    config: dict[str, Any] = {"dtype": "int4" if four else "int8", "group_size": GROUP_SIZE if four else 0}
    with torch.cuda.device_of(weight.values):
        layer = HummingLayer(
            shape_n=channels, shape_k=columns * 2 if four else columns, weight_config=config,
            torch_dtype=weight.scale.dtype, has_bias=weight.bias is not None,
        ).to(weight.values.device)  # fmt: skip
        tensors = {"weight": packed_values(weight), "weight_scale": weight.scale.view(channels, -1)}
        if weight.bias is not None:
            tensors["bias"] = weight.bias
        layer.load_from_tensors(tensors)
        layer.transform()
    return layer


class HummingMatmul:
    """A `Matmul` of the library's layer.

    Args:
        channels: of the weight.
        layer: takes `[rows, in]`, and `outputs` `[rows, channels]`.
        finish: applies SwiGLU and residual.
    """

    def __init__(self, channels: int, layer: Callable[..., Tensor], finish: Finish) -> None:
        self._channels, self._layer, self._finish = channels, layer, finish

    def __call__(
        self, x: Tensor, out: Tensor, *, norm_weight: Tensor | None = None, eps: float = 0.0,
        residual: Tensor | None = None, swiglu: bool = False,
    ) -> None:  # fmt: skip
        """See `kernels.matmul.Matmul`."""
        from vita.kernels.dispatch import triton_elementwise

        normed = x if norm_weight is None else triton_elementwise().rms_norm(x, norm_weight, eps)
        separate = swiglu or residual is not None
        sums = torch.empty(len(x), self._channels, dtype=x.dtype, device=x.device) if separate else out
        with torch.cuda.device_of(x):  # the library launches on the thread's current device
            self._layer(normed, outputs=sums)
        if separate:
            self._finish(sums[None], out, residual=residual, swiglu=swiglu)
