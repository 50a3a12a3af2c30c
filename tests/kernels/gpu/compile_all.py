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

from vita.kernels.triton import MAX_BATCH, decode_attention, elementwise, linear

SCALES = "*bf16"  # of quantised weights, for every dtype of the model
DTYPES = {"*bf16": torch.bfloat16, "*fp16": torch.float16, "*fp32": torch.float32}

FUSED = {"qkv": ("NORM", "BIAS"), "residual": ("RESIDUAL",), "swiglu": ("NORM", "SWIGLU")}


def launches(dtype: str) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int]]:
    """Name, kernel, argument types, constants and warps, for tensors of a pointer type such as `*bf16`."""
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
    for quantized in (False, True):
        types = {"qkv": dtype, "block_table": "*i64", "cosines": dtype, "sines": dtype, "partials": "*fp32"}
        types |= {"layers": "i32", "layer": "i32", "score_scale": "fp32"}
        sizes = {"HEADS": 28, "KV_HEADS": 4, "HEAD_DIM": 128, "SPLITS": 32, "M_BLOCK": 16}
        sizes |= {"KV_BLOCK": decode_attention.kv_block(DTYPES[dtype])}
        name = "attention, int8" if quantized else "attention"
        yield name, decode_attention._split_kernel, types, {**sizes, "QUANTIZED": quantized}, 4
    sizes = {"HEADS": 28, "HEAD_DIM": 128, "SPLITS": 32}
    yield "reduce", decode_attention._reduce_kernel, {"partials": "*fp32", "out": dtype}, sizes, 4
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
        registers, stack = resources(result)
        print(f"{name}: {registers} registers, {stack} bytes of stack, {result.metadata.shared} shared", flush=True)
