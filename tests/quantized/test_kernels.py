"""The C kernels on processors other than this one: every branch of the source gives the same products."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest
import torch

from vita.kernels import build
from vita.kernels.build import GROUP, Kernels
from vita.layers.int4 import quantize_groups, unpack
from vita.layers.int8 import quantize_rows

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
X86 = platform.machine() in ("x86_64", "AMD64")
BRANCHES = {
    "this processor": ("-march=native",),
    "AVX2": ("-mavx2", "-mfma"),
    "plain C": (),
}


@pytest.fixture(scope="module", params=list(BRANCHES))
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    if COMPILER is None:
        pytest.skip("NO COMPILER: the kernels cannot be built here")
    if request.param == "AVX2" and not (X86 and torch.cpu._is_avx2_supported()):
        pytest.skip("NO AVX2: this processor cannot run that branch")
    import ctypes

    flags = ("-O2", *BRANCHES[request.param], "-fopenmp", "-fPIC", "-shared")
    target = tmp_path_factory.mktemp("kernels") / "kernels.so"
    patch = pytest.MonkeyPatch()
    patch.setattr(build, "FLAGS", flags)
    try:
        assert build._compile(COMPILER, Path(target)) == ""
    finally:
        patch.undo()
    return Kernels(ctypes.CDLL(str(target)))


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("groups", [1, 2, 17, 33])
def test_four_bits(own: Kernels, rows: int, groups: int) -> None:
    torch.manual_seed(rows * 100 + groups)
    packed, scale = quantize_groups(torch.randn(21, groups * GROUP))
    wide, x, bias = unpack(packed, scale), torch.randn(rows, groups * GROUP), torch.randn(21)
    exact = x @ wide.float().t()
    mine = own.int4_product(x, packed, scale, None)
    assert float((mine - exact).norm() / exact.norm()) < 0.012, "x is rounded to eight bits"
    torch.testing.assert_close(own.int4_product(x, packed, scale, bias), mine + bias)
    half = own.int4_product(x.bfloat16(), packed, scale, bias.bfloat16())
    again = own.int4_product(x.bfloat16().float(), packed, scale, bias.bfloat16().float())
    assert half.dtype == torch.bfloat16 and torch.equal(half, again.bfloat16())
    room = torch.empty_like(wide)
    own.int4_widen(packed, scale, room)
    assert torch.equal(room, wide)


def moved(tensor: torch.Tensor, by: int) -> torch.Tensor:
    """The same at an address that many bytes after a multiple of 64, as in a mapped file."""
    memory = torch.zeros(tensor.nbytes + 128, dtype=torch.uint8)
    start = -memory.data_ptr() % 64 + by
    return memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("by", [0, 3, 8, 63])
@pytest.mark.parametrize("rows", [1, 2, 5, 13])
@pytest.mark.parametrize("width", [40, 64, 200, 1027])
def test_eight_bits(own: Kernels, rows: int, width: int, by: int) -> None:
    torch.manual_seed(rows)
    whole, scale = quantize_rows(torch.randn(21, width))
    whole = moved(whole, by)
    x = torch.randn(rows, width)
    exact = x @ (whole.float() * scale.float()[:, None]).t()
    mine, bias = own.int8_product(x, whole, scale, None), torch.randn(21)
    torch.testing.assert_close(mine, exact, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(own.int8_product(x, whole, scale, bias), mine + bias, atol=1e-5, rtol=1e-5)
    half = own.int8_product(x.bfloat16(), whole, scale, bias.bfloat16())
    again = own.int8_product(x.bfloat16().float(), whole, scale, bias.bfloat16().float())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), again, atol=1e-3, rtol=2**-8)


@pytest.mark.parametrize("by", [0, 2, 8, 62])
@pytest.mark.parametrize("width", [20, 64, 200, 1027, 3584])
def test_one_row_of_bfloat16(own: Kernels, width: int, by: int) -> None:
    torch.manual_seed(width)
    x, weight, bias = torch.randn(1, width).bfloat16(), torch.randn(21, width).bfloat16(), torch.randn(21).bfloat16()
    weight = moved(weight, by)
    exact = x.float() @ weight.float().t() + bias.float()
    torch.testing.assert_close(own.bf16_row(x, weight, bias).float(), exact, atol=2e-3, rtol=2**-7)


@pytest.mark.parametrize("width", [64, 200, 3584])
def test_rms_norm_is_the_eight_operations(own: Kernels, width: int) -> None:
    torch.manual_seed(width)
    x, weight = (torch.randn(3, width) * 40).bfloat16(), torch.randn(width).bfloat16()
    float_ = x.float()
    exact = (float_ * torch.rsqrt(float_.pow(2).mean(-1, keepdim=True) + 1e-6)).bfloat16() * weight
    mine = own.rms_norm(x, weight, 1e-6)
    # The mean is summed in another order: now and then a value lies on the other side of a rounding border.
    assert float((mine != exact).float().mean()) < 0.01
    torch.testing.assert_close(mine.float(), exact.float(), atol=0, rtol=2**-7)
