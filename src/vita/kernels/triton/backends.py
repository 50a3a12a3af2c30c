"""The backends of CUDA, fastest first: libraries, Triton kernels in integers, Triton kernels in floats."""

from __future__ import annotations

import torch
from torch import Tensor

from vita.kernels.humming import humming_backend
from vita.kernels.matmul import Backend, Bound, MatmulChooser, Rows
from vita.kernels.triton import MAX_BATCH, int_gemm, int_gemv
from vita.kernels.triton import linear as float_linear
from vita.kernels.triton.elementwise import TritonElementwise, int4_dequantize
from vita.kernels.triton.epilogue import finish
from vita.kernels.weight import GPU_DEQUANTIZE_BLOCK, Weight, channel_blocks


def cuda_chooser(dtype: torch.dtype) -> MatmulChooser:
    """The backends of a CUDA device for x of this dtype."""
    fused = Backend("Triton", lambda weight, dtype: True, lambda weight: Bound(float_linear.linear, weight))
    library = Backend("cuBLAS", _is_float, lambda weight: Bound(library_linear, weight))
    gemv = Backend("Triton dp4a", int_gemv.supports, lambda weight: Bound(int_gemv.linear, weight))
    gemm = Backend("Triton int8", int_gemv.supports, lambda weight: Bound(int_gemm.linear, weight))
    dequantized = Backend("cuBLAS, dequantised", _is_quantized, lambda weight: Bound(dequantized_linear, weight))
    backends: dict[Rows, list[Backend]] = {
        "one": [gemv, fused], "batch": [library, gemm, fused], "many": [library, dequantized]
    }  # fmt: skip
    return MatmulChooser(backends, [humming_backend(finish)], dtype)


def _is_float(weight: Weight, dtype: torch.dtype) -> bool:
    return weight.scale is None


def _is_quantized(weight: Weight, dtype: torch.dtype) -> bool:
    return weight.scale is not None


def library_linear(
    x: Tensor, weight: Weight, out: Tensor, *, norm_weight: Tensor | None = None, eps: float = 0.0,
    residual: Tensor | None = None, swiglu: bool = False,
) -> None:  # fmt: skip
    """As `kernels.reference.linear` for a weight in the dtype of x, by the library's GEMM."""
    normed = x if norm_weight is None else TritonElementwise().rms_norm(x, norm_weight, eps)
    separate = swiglu or residual is not None
    sums = torch.empty(len(x), len(weight.values), dtype=x.dtype, device=x.device) if separate else out
    _multiply(normed, weight.values, weight.bias, sums)
    if separate:
        finish(sums[None], out, residual=residual, swiglu=swiglu)


def dequantized_linear(
    x: Tensor, weight: Weight, out: Tensor, *, norm_weight: Tensor | None = None, eps: float = 0.0,
    residual: Tensor | None = None, swiglu: bool = False,
) -> None:  # fmt: skip
    """As `kernels.reference.linear` for a quantised weight, dequantised to the dtype of x, by the library's GEMM."""
    assert weight.scale is not None
    normed = x if norm_weight is None else TritonElementwise().rms_norm(x, norm_weight, eps)
    channels, in_features = len(weight.values), x.shape[1]
    separate = swiglu or residual is not None
    sums = torch.empty(len(x), channels, dtype=x.dtype, device=x.device) if separate else out
    for part in channel_blocks(channels, in_features, GPU_DEQUANTIZE_BLOCK):
        values, scale = weight.values[part], weight.scale[part]
        block = torch.empty(len(values), in_features, dtype=x.dtype, device=x.device)
        if values.dtype == torch.uint8:
            int4_dequantize(values, scale, block)
        else:
            torch.mul(values, scale.to(x.dtype)[:, None], out=block)
        bias = None if weight.bias is None else weight.bias[part]
        _multiply(normed, block, bias, sums[:, part])
    if separate:
        finish(sums[None], out, residual=residual, swiglu=swiglu)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def pad_rows(x: Tensor) -> Tensor:
    """Rows `[n, in]`, 2 to 16 of them, as 16 rows: zeros behind them."""
    padded = torch.zeros(MAX_BATCH, x.shape[1], dtype=x.dtype, device=x.device)
    padded[: len(x)] = x
    return padded
