"""PyTorch builds without private operators, such as those without oneDNN: everything works, with public operations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from vita.cli import doctor
from vita.kernels.torch_ops import TorchOps
from vita.layers.linear import choose_route
from vita.runtime.cpu_features import CpuFeatures

ABSENT = (
    torch.ops.no_such_namespace
)  # as `torch.ops.mkldnn` in a build without oneDNN: any operator is an AttributeError
OPS_WITHOUT_ONEDNN = SimpleNamespace(mkldnn=ABSENT, aten=torch.ops.aten)


def test_calls_of_absent_operators_return_none() -> None:
    ops, x = TorchOps(SimpleNamespace(mkldnn=ABSENT, aten=ABSENT), SimpleNamespace()), torch.ones(2, 16).bfloat16()
    assert ops.linear_activation(x, x, None, "gelu") is None
    assert ops.int8_linear(x, x.to(torch.int8), x[:, 0]) is None
    assert ops.causal_flash_attention(x, x, x, None) is None


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_present_operators_equal_public_operations(activation: str) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 32).bfloat16(), torch.randn(16, 32).bfloat16(), torch.randn(16).bfloat16()
    with torch.inference_mode():
        fused = TorchOps().linear_activation(x, weight, bias, activation)
        integers, scale = (weight * 20).round().to(torch.int8), torch.rand(16).bfloat16()
        packed = TorchOps().int8_linear(x, integers, scale)
    if fused is not None:
        exact = getattr(functional, activation)(functional.linear(x.float(), weight.float(), bias.float()))
        torch.testing.assert_close(fused.float(), exact, atol=2e-3, rtol=2**-7)
    if packed is not None:
        exact = x.float() @ (integers.float() * scale.float()[:, None]).t()
        torch.testing.assert_close(packed.float(), exact, atol=0.5, rtol=2**-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_without_onednn_half_precision_is_cast_to_float32(dtype: torch.dtype) -> None:
    features = CpuFeatures(OPS_WITHOUT_ONEDNN)
    assert not features.has_gemm(dtype) and features.has_gemm(torch.float32)
    assert choose_route(torch.device("cpu"), dtype, features)[0] == "upcast"
    assert choose_route(torch.device("cpu"), torch.float32, features)[0] == "native"


def test_doctor_reports_a_build_without_onednn() -> None:
    (finding,) = [f for f in doctor.machine(CpuFeatures(OPS_WITHOUT_ONEDNN)) if f.name == "bfloat16 on CPU"]
    assert not finding.good and "float32" in finding.found and "float32" in finding.fix


@pytest.mark.slow
def test_doctor_and_a_request_work_without_any_private_operator(mini: Path) -> None:
    """In a process of its own, whose PyTorch has lost them; a request with an image, in three formats."""
    code = f"""
import torch
torch.ops.mkldnn = torch.ops.no_such_namespace
torch.ops.aten = torch.ops.no_such_namespace
del torch._weight_int8pack_mm
import numpy as np, vita
from vita.cli.doctor import run_doctor
assert run_doctor() == 0
for dtype, scheme in (("bfloat16", None), ("float16", "int8"), ("bfloat16", "int4+encoders")):
    model = vita.load({str(mini / "mini_ckpt")!r}, device="cpu", dtype=dtype, quantize=scheme)
    image = np.full((64, 96, 3), 90, np.uint8)
    result = model.ask("Hello.", images=[image], params=vita.SamplingParams(max_tokens=3))
    assert 1 <= len(result.token_ids) <= 3
print("done")
"""
    environment = {**os.environ, "VITA_KERNELS": "off"}  # so that PyTorch operations compute everything
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "bfloat16 on CPU  this CPU has no torch.bfloat16 GEMM" in done.stdout and done.stdout.endswith("done\n")
