"""The C interface of the kernels: every exported function with its ctypes types.

`bind` declares them on a loaded library, so that callers pass plain numbers: ctypes checks their count and converts
each to its C type. Without a declaration ctypes would cut an address to 32 bits.
"""

from __future__ import annotations

import ctypes
from typing import TypeAlias

CType: TypeAlias = type[object]  # ctypes has no public base class of c_int64 and POINTER(c_int64)

INT: CType = ctypes.c_int
INT64: CType = ctypes.c_int64
DOUBLE: CType = ctypes.c_double
DATA: CType = ctypes.c_void_p  # address of a tensor's first value, or None
INTS: CType = ctypes.POINTER(ctypes.c_int64)
ADDRESSES: CType = ctypes.POINTER(ctypes.c_void_p)

# Name: result (None for void), arguments. The C sources name the arguments.
SIGNATURES: dict[str, tuple[CType | None, tuple[CType, ...]]] = {
    "vita_group_size": (INT64, ()),
    # w, x, bias, y; n_out, n_in
    "vita_gemv_bf16": (None, (DATA,) * 4 + (INT64,) * 2),
    # rows, n_in
    "vita_gemv_int8_workspace": (INT64, (INT64,) * 2),
    # w, scales, x, bias, y, workspace; rows, n_out, n_in, is_bf16
    "vita_gemv_int8": (None, (DATA,) * 6 + (INT64,) * 4),
    # w, scales, out; n_out, n_in
    "vita_dequantize_int8": (None, (DATA,) * 3 + (INT64,) * 2),
    # rows, n_in
    "vita_gemv_int4_workspace": (INT64, (INT64,) * 2),
    # w, scales, x, bias, y, workspace; rows, n_out, n_in, is_bf16
    "vita_gemv_int4": (None, (DATA,) * 6 + (INT64,) * 4),
    # w, scales, out; n_out, n_in
    "vita_dequantize_int4": (None, (DATA,) * 3 + (INT64,) * 2),
    "vita_gemm_small_max_rows_bf16": (INT64, ()),
    "vita_gemm_small_max_rows_int8": (INT64, ()),
    # w, scales, x, bias, y; rows, n_out, n_in
    "vita_gemm_small": (None, (DATA,) * 5 + (INT64,) * 3),
    # bits, n_in
    "vita_gemm_dynamic_int8_supports": (INT, (INT64,) * 2),
    # rows, n_in, threads
    "vita_gemm_dynamic_int8_workspace": (INT64, (INT64,) * 3),
    # w, scales, x, bias, y, workspace; rows, n_out, n_in, is_bf16, bits, threads
    "vita_gemm_dynamic_int8": (None, (DATA,) * 6 + (INT64,) * 6),
    # head_dim
    "vita_flash_attention_supports": (INT, (INT64,)),
    # batch, kv_heads, keys, head_dim
    "vita_flash_attention_workspace": (INT64, (INT64,) * 4),
    # q, k, v, out, workspace; strides; batch, heads, kv_heads, queries, keys, head_dim, causal; scale
    "vita_flash_attention": (None, (DATA,) * 5 + (INTS,) + (INT64,) * 7 + (DOUBLE,)),
    # head_dim
    "vita_decode_attention_supports": (INT, (INT64,)),
    # lengths; requests, heads, kv_heads, head_dim
    "vita_decode_attention_workspace": (INT64, (INTS,) + (INT64,) * 4),
    # q, k, v; keys, values, scales; lengths, capacities; out, workspace; requests, heads, kv_heads, head_dim, layers,
    # layer; scale
    "vita_decode_attention": (
        None, (DATA,) * 3 + (ADDRESSES,) * 3 + (INTS,) * 2 + (DATA,) * 2 + (INT64,) * 6 + (DOUBLE,),
    ),
    # head_dim
    "vita_rope_supports": (INT, (INT64,)),
    # x, cos, sin; rows, heads, head_dim, angles
    "vita_rope": (None, (DATA,) * 3 + (INT64,) * 4),
    # x, weight, y; rows, n; eps
    "vita_rms_norm": (None, (DATA,) * 3 + (INT64,) * 2 + (DOUBLE,)),
    # helper threads
    "vita_helpers_begin": (INT64, (INT64,)),
    "vita_helpers_end": (None, ()),
    "vita_helpers_chunks": (INT64, ()),
    # layer; head_dim
    "vita_decode_layer_max_rows": (INT64, (DATA, INT64)),
    # layer; rows
    "vita_decode_layer_workspace": (INT64, (DATA, INT64)),
    # layer, x, q, k, v, cos, sin, workspace; rows, head_dim; eps
    "vita_decode_layer_begin": (None, (DATA,) * 8 + (INT64,) * 2 + (DOUBLE,)),
    # layer, x, attended, workspace; rows; eps
    "vita_decode_layer_end": (None, (DATA,) * 4 + (INT64, DOUBLE)),
    # gate, up; n
    "vita_silu_mul": (None, (DATA,) * 2 + (INT64,)),
}  # fmt: skip

FLOAT32_SIGNATURES: dict[str, tuple[CType | None, tuple[CType, ...]]] = {
    # head_dim
    "vita_decode_attention_f32_supports": (INT, (INT64,)),
    # lengths; requests, heads, kv_heads, head_dim
    "vita_decode_attention_f32_workspace": (INT64, (INTS,) + (INT64,) * 4),
    # q, k, v; keys, values; lengths, capacities; out, workspace; requests, heads, kv_heads, head_dim, layer; scale;
    # is_bf16
    "vita_decode_attention_f32": (
        None, (DATA,) * 3 + (ADDRESSES,) * 2 + (INTS,) * 2 + (DATA,) * 2 + (INT64,) * 5 + (DOUBLE, INT),
    ),
    # decoder, lengths; rows
    "vita_decode_step_f32_workspace": (INT64, (DATA, INTS, INT64)),
    # decoder, x, keys, values; lengths, capacities; logits, workspace; rows
    "vita_decode_step_f32": (None, (DATA,) * 2 + (ADDRESSES,) * 2 + (INTS,) * 2 + (DATA,) * 2 + (INT64,)),
    # x, weight, y; rows, n; eps
    "vita_rms_norm_f32": (None, (DATA,) * 3 + (INT64,) * 2 + (DOUBLE,)),
    # x, cos, sin; rows, heads, head_dim, angles
    "vita_rope_f32": (None, (DATA,) * 3 + (INT64,) * 4),
}  # fmt: skip

CONV_SIGNATURES: dict[str, tuple[CType | None, tuple[CType, ...]]] = {
    "vita_conv_f32_channels": (INT64, ()),
    # x, w, bias, tail, y, workspace; n, kept, zeros, n_in, n_out, taps, dilation; slope
    "vita_conv_stream_f32": (None, (DATA,) * 6 + (INT64,) * 7 + (DOUBLE,)),
}


class InterfaceError(Exception):
    """A compiled library lacks a function; the text names it."""


def bind(library: ctypes.CDLL, signatures: dict[str, tuple[CType | None, tuple[CType, ...]]] = SIGNATURES) -> None:
    """Declare the types of every exported function on `library`.

    Raises:
        InterfaceError: a function is missing.
    """
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise InterfaceError(f"the compiled library has no function {name}") from error
        function.restype, function.argtypes = result, arguments
