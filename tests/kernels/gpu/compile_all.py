"""Compiles every kernel for a GPU that need not be there, as the released model launches it.

    python -m tests.kernels.gpu.compile_all 90 bf16

One line a kernel: its name, registers a thread, bytes of stack (spilled registers), bytes of shared memory. The
number is the compute capability; the format is the model's, one of bf16, fp16 and fp32. The
interpreter runs kernels more loosely than the compiler takes them, so both are needed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vita.kernels.triton import MAX_BATCH, attention, products, rows

SCALES = "*bf16"  # of rounded weights, whatever the model works in


def launches(form: str) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int]]:
    """Name, kernel, types of what is passed, constants, warps; for tensors of a format such as `*bf16`."""
    weights = {products.WHOLE: form, products.BITS8: "*i8", products.BITS4: "*u8"}
    for (kind, alone), cut in products.SHAPES.items():
        for name, more in {
            "qkv": {"NORM": True, "BIAS": True}, "sum": {"ADD": True}, "gate": {"NORM": True, "GATE": True},
        }.items():  # fmt: skip
            constants = {"NORM": False, "BIAS": False, "ADD": False, "GATE": False, **more}
            constants |= {"INPUTS": 3584, "KIND": kind, "ALONE": alone, "CHANNELS": cut.channels, "WIDTH": cut.width}
            constants |= {"STAGES": cut.stages, "ROWS": MAX_BATCH}
            types = {"x": form, "weight": weights[kind], "out": form, "rows": "i32", "channels": "i32", "eps": "fp32"}
            there = {"gain": "NORM", "bias": "BIAS", "add": "ADD"}
            types |= {pointer: form for pointer, flag in there.items() if constants[flag]}
            types |= {"scale": SCALES} if kind != products.WHOLE else {}
            label = f"{name}, {('whole', 'eight bits', 'four bits')[kind]}, {'one row' if alone else 'rows'}"
            yield label, products._product, types, constants, cut.warps
    for rounded in (False, True):
        types = {"qkv": form, "table": "*i64", "cosines": form, "sines": form, "parts": "*fp32"}
        types |= {"layers": "i32", "layer": "i32", "scale": "fp32"}
        keys = attention.keys_of(form == "*fp32")
        sizes = {"HEADS": 28, "GROUPS": 4, "WIDTH": 128, "SPLITS": 32, "KEYS": keys, "PADDED": 16}
        name = "attention, eight bits" if rounded else "attention"
        yield name, attention._parts, types, {**sizes, "ROUNDED": rounded}, 4
    sizes = {"HEADS": 28, "WIDTH": 128, "SPLITS": 32}
    yield "joined", attention._joined, {"parts": "*fp32", "out": form}, sizes, 4
    yield (
        "norm",
        rows._norm,
        {"x": form, "weight": form, "out": form, "width": "i32", "eps": "fp32"},
        {"WIDTH": 4096},
        8,
    )
    types = {"table": form, "tokens": "*i64", "out": form, "width": "i32"}
    yield "take", rows._take, types, {"LANES": rows.LANES}, 4
    types = {"x": form, "cos": form, "sin": form, "heads": "i32", "angles": "i32"}
    yield "rotate", rows._rotate, types, {"HALF": 64}, 1
    yield "gate", rows._gate, {"gate": form, "up": form, "count": "i32"}, {"LANES": rows.LANES}, 4
    yield "widen", rows._widen, {"weight": "*u8", "scale": SCALES, "out": form, "groups": "i32"}, {"GROUPS": 32}, 4


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], warps: int, target: int) -> Any:
    """What Triton makes of it; pointers lie on 16-byte borders, as PyTorch's memory does."""
    names = kernel.arg_names
    absent = {name: None for name in names if name not in types and name not in constants}
    signature = {name: types.get(name, "constexpr") for name in names}
    values = {(names.index(name),): value for name, value in {**constants, **absent}.items()}
    borders = {(names.index(name),): [["tt.divisibility", 16]] for name, kind in types.items() if kind.startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=borders)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": warps})


def resources(made: Any) -> tuple[int, int]:
    """Registers a thread, bytes of stack."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", said.stdout)
    assert found is not None, said.stdout
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    for name, kernel, types, constants, warps in launches("*" + sys.argv[2]):
        made = compiled(kernel, types, constants, warps, int(sys.argv[1]))
        registers, stack = resources(made)
        print(f"{name}: {registers} registers, {stack} bytes of stack, {made.metadata.shared} shared", flush=True)
