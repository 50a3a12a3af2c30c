"""Compile every Triton kernel as the released model launches it; no GPU is needed.

    python -m tests.kernels.gpu.compile_all 90 bf16

The arguments are the compute capability and the model's dtype (bf16, fp16 or fp32). Prints a line a kernel: its name,
registers a thread, bytes of stack (spilled registers), bytes of shared memory. The interpreter accepts more than the
compiler does, so both are tested.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vita.kernels.triton import (
    MAX_BATCH,
    activations,
    decode_attention,
    elementwise,
    epilogue,
    int_gemm,
    int_gemv,
    linear,
    prefill_attention,
)  # fmt: skip

SCALES = "*bf16"  # of quantised weights, for every dtype of the model
DTYPES = {"*bf16": torch.bfloat16, "*fp16": torch.float16, "*fp32": torch.float32}

Launch = tuple[str, Any, dict[str, str], dict[str, Any], int]

FUSED = {"qkv": ("NORM", "BIAS"), "residual": ("RESIDUAL",), "swiglu": ("NORM", "SWIGLU")}
EPILOGUES = {"bias": ("BIAS",), "residual": ("RESIDUAL",), "swiglu": ("SWIGLU",)}


def launches(dtype: str) -> Iterator[Launch]:
    """Name, kernel, argument types, constants and warps, for tensors of a pointer type such as `*bf16`."""
    yield from linear_launches(dtype)
    yield from attention_launches(dtype)
    yield from elementwise_launches(dtype)
    if dtype != "*fp32":  # float32 activations are not quantised
        yield from integer_launches(dtype)


def linear_launches(dtype: str) -> Iterator[Launch]:
    weights = {linear.FLOAT: dtype, linear.INT8: "*i8", linear.INT4: "*u8"}
    for (weight_format, one_row), shape in linear.BLOCK_SHAPES.items():
        for name, flags in FUSED.items():
            constants: dict[str, Any] = {flag: flag in flags for flag in ("NORM", "BIAS", "RESIDUAL", "SWIGLU")}
            constants |= {"IN_FEATURES": 3584, "FORMAT": weight_format, "ONE_ROW": one_row}
            constants |= {"N_BLOCK": shape.n_block, "K_BLOCK": shape.k_block}
            constants |= {"STAGES": shape.stages, "M_BLOCK": MAX_BATCH}
            types = {"x": dtype, "weight": weights[weight_format], "out": dtype}
            types |= {"rows": "i32", "channels": "i32", "eps": "fp32"}
            optional = {"norm_weight": "NORM", "bias": "BIAS", "residual": "RESIDUAL"}
            types |= {pointer: dtype for pointer, flag in optional.items() if constants[flag]}
            types |= {"scale": SCALES} if weight_format != linear.FLOAT else {}
            label = f"{name}, {('float', 'int8', 'int4')[weight_format]}, {'one row' if one_row else 'rows'}"
            yield label, linear._linear_kernel, types, constants, shape.warps


def attention_launches(dtype: str) -> Iterator[Launch]:
    for quantized in (False, True):
        types = {"qkv": dtype, "block_table": "*i64", "cosines": dtype, "sines": dtype, "partials": "*fp32"}
        types |= {"layers": "i32", "layer": "i32", "score_scale": "fp32"}
        sizes = {"HEADS": 28, "KV_HEADS": 4, "HEAD_DIM": 128, "SPLITS": 32, "M_BLOCK": 16}
        sizes |= {"KV_BLOCK": decode_attention.kv_block(DTYPES[dtype])}
        name = "attention, int8" if quantized else "attention"
        yield name, decode_attention._split_kernel, types, {**sizes, "QUANTIZED": quantized}, 4
    sizes = {"HEADS": 28, "HEAD_DIM": 128, "SPLITS": 32}
    yield "reduce", decode_attention._reduce_kernel, {"partials": "*fp32", "out": dtype}, sizes, 4
    sizes = {"HEADS": 28, "KV_HEADS": 4, "HEAD_DIM": 128}
    types = {"qkv": dtype, "cos": dtype, "sin": dtype, "q": dtype, "k": dtype, "v": dtype, "rows": "i32"}
    yield "rope qkv", prefill_attention._rope_qkv_kernel, types, sizes, 2
    for quantized in (False, True):
        suffix = ", int8" if quantized else ""
        types = {"k": dtype, "v": dtype, "block_table": "*i64", "rows": "i32", "layers": "i32", "layer": "i32"}
        constants = {"KV_HEADS": 4, "HEAD_DIM": 128, "QUANTIZED": quantized}
        yield f"append{suffix}", prefill_attention._append_kernel, types, constants, 2
        types = {"q": dtype, "block_table": "*i64", "out": dtype, "rows": "i32", "layers": "i32", "layer": "i32"}
        constants = {**sizes, "QUANTIZED": quantized, "M_BLOCK": prefill_attention.M_BLOCK}
        constants |= {"KV_BLOCK": decode_attention.kv_block(DTYPES[dtype])}
        types |= {"score_scale": "fp32"}
        yield f"prefill attention{suffix}", prefill_attention._prefill_kernel, types, constants, 4


def elementwise_launches(dtype: str) -> Iterator[Launch]:
    types = {"x": dtype, "weight": dtype, "out": dtype, "width": "i32", "eps": "fp32"}
    yield "rms norm", elementwise._rms_norm_kernel, types, {"BLOCK": 4096}, 8
    types = {"table": dtype, "tokens": "*i64", "out": dtype, "width": "i32"}
    yield "embedding", elementwise._embedding_kernel, types, {"BLOCK": elementwise.BLOCK}, 4
    types = {"x": dtype, "cos": dtype, "sin": dtype, "heads": "i32", "table_rows": "i32"}
    yield "rope", elementwise._rope_kernel, types, {"HALF": 64}, 1
    types = {"gate": dtype, "up": dtype, "count": "i32"}
    yield "silu mul", elementwise._silu_mul_kernel, types, {"BLOCK": elementwise.BLOCK}, 4
    types = {"weight": "*u8", "scale": SCALES, "out": dtype, "groups": "i32"}
    yield "int4 dequantize", elementwise._int4_dequantize_kernel, types, {"GROUPS": 32}, 4
    for name, flags in EPILOGUES.items():
        constants = {flag: flag in flags for flag in ("BIAS", "RESIDUAL", "SWIGLU")} | {"BLOCK": epilogue.BLOCK}
        types = {"sums": dtype, "out": dtype, "rows": "i32", "channels": "i32"}
        types |= {pointer: dtype for pointer, flag in (("bias", "BIAS"), ("residual", "RESIDUAL")) if constants[flag]}
        yield f"finish, {name}", epilogue._finish_kernel, types, {**constants, "SPLITS": 1}, 4


def integer_launches(dtype: str) -> Iterator[Launch]:
    """Of matmuls in integers."""
    types = {"x": dtype, "norm_weight": dtype, "values": "*i8", "scales": "*fp32", "sums": "*i32", "eps": "fp32"}
    constants: dict[str, Any] = {"IN_FEATURES": 3584, "NORM": True, "GROUPS": activations.GROUPS, "NORM_BLOCK": 2048}
    yield "quantize", activations._quantize_kernel, types, constants, 4
    for weight_format, shape in int_gemv.GEMV_SHAPES.items():
        for name, flags in EPILOGUES.items():
            constants = {flag: flag in flags for flag in ("BIAS", "RESIDUAL", "SWIGLU")}
            constants |= {"IN_FEATURES": 3584, "FORMAT": weight_format, "N_BLOCK": shape.n_block, "DP4A": True}
            constants |= {"GROUPS": shape.groups, "STAGES": shape.stages}
            types = {"x": "*i32", "x_scales": "*fp32", "x_sums": "*i32", "weight": "*i32", "scale": SCALES}
            types |= {"out": dtype, "channels": "i32"}
            optional = (("bias", "BIAS"), ("residual", "RESIDUAL"))
            types |= {pointer: dtype for pointer, flag in optional if constants[flag]}
            label = f"gemv {name}, {('float', 'int8', 'int4')[weight_format]}"
            yield label, int_gemv._int_gemv_kernel, types, constants, shape.warps
    for weight_format, gemm in int_gemm.GEMM_SHAPES.items():
        for splits in (1, 4):
            stored = {linear.INT8: "*i8", linear.INT4: "*u8"}[weight_format]
            types = {"x": "*i8", "x_scales": "*fp32", "weight": stored, "scale": SCALES, "partials": "*fp32"}
            types |= {"rows": "i32", "channels": "i32"}
            constants = {"IN_FEATURES": 18944, "FORMAT": weight_format, "SPLITS": splits, "N_BLOCK": gemm.n_block}
            constants |= {"M_BLOCK": MAX_BATCH, "STAGES": gemm.stages}
            label = f"gemm, {('float', 'int8', 'int4')[weight_format]}, {splits} splits"
            yield label, int_gemm._int_gemm_kernel, types, constants, gemm.warps


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], warps: int, target: int) -> Any:
    """The compiled kernel, for pointers that are 16-byte aligned as PyTorch's are."""
    names = kernel.arg_names
    absent = {name: None for name in names if name not in types and name not in constants}
    signature = {name: types.get(name, "constexpr") for name in names}
    values = {(names.index(name),): value for name, value in {**constants, **absent}.items()}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name, kind in types.items() if kind.startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": warps})


def resources(kernel: Any) -> tuple[int, int]:
    """Registers a thread, bytes of stack."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", said.stdout)
    assert found is not None, said.stdout
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    for name, kernel, types, constants, warps in launches("*" + sys.argv[2]):
        result = compiled(kernel, types, constants, warps, int(sys.argv[1]))
        assert not name.startswith("gemv") or "dp4a" in result.asm["ptx"], f"{name}: not by dp4a"
        registers, stack = resources(result)
        print(f"{name}: {registers} registers, {stack} bytes of stack, {result.metadata.shared} shared", flush=True)
