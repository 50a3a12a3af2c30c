"""The kernel of the codec's convolutions: PyTorch's numbers, and the same bits however a stream is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.compilers import find_compiler
from tests.kernels.float32_builds import OTHER_FLAGS, build
from torch.nn import functional

from vita.kernels.cpu import conv as conv_module
from vita.kernels.cpu.conv import CONV_PROGRAM, ConvKernel, conv_kernel, load_conv_kernel
from vita.speech.codec import SLOPE, Conv, _ConvStream

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="SKIPPED LOUDLY: no C compiler")
SHAPES = [(32, 64, 3, 1), (64, 64, 11, 5), (48, 32, 7, 3), (5, 32, 1, 1), (160, 96, 3, 5)]  # in, out, taps, dilation


@pytest.fixture(scope="module")
def kernel() -> ConvKernel:
    found = load_conv_kernel()
    assert found is not None
    return found


def convolution(n_in: int, n_out: int, taps: int, dilation: int) -> Conv:
    draw = torch.Generator().manual_seed(n_in + n_out)
    conv = Conv(n_in, n_out, taps, dilation).requires_grad_(False)
    conv.weight.data = torch.randn(taps, n_in, n_out, generator=draw) / (taps * n_in) ** 0.5
    conv.bias.data = torch.randn(n_out, generator=draw)
    return conv


@torch.inference_mode()
def streamed(conv: Conv, x: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    stream, parts, at = _ConvStream(conv), [], 0
    for size in sizes:
        parts.append(stream.push(x[at : at + size], last=False))
        at += size
    return torch.cat([*parts, stream.push(x[at:], last=True)])


def assert_is_pytorchs(shape: tuple[int, int, int, int], rows: int = 601) -> None:
    conv = convolution(*shape)
    x = torch.randn(rows, shape[0], generator=torch.Generator().manual_seed(1))
    weight = conv.weight.permute(2, 1, 0)  # [out, in, taps]
    padded = functional.pad(functional.leaky_relu(x, SLOPE).t()[None], (conv.span // 2,) * 2)
    wanted = functional.conv1d(padded, weight, conv.bias, dilation=shape[3])[0].t()
    got = streamed(conv, x, [100, 0, 1, 250])
    assert got.shape == wanted.shape
    assert torch.allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_pytorchs_convolution(kernel: ConvKernel, shape: tuple[int, int, int, int]) -> None:
    assert kernel.supports(torch.empty(1, shape[0]), convolution(*shape).weight)
    assert_is_pytorchs(shape)


@given(sizes=st.lists(st.integers(0, 60), max_size=8), shape=st.sampled_from(SHAPES), rows=st.integers(0, 500))
@settings(max_examples=40)
def test_the_same_bits_however_a_stream_is_cut(sizes: list[int], shape: tuple[int, int, int, int], rows: int) -> None:
    conv, x = convolution(*shape), torch.randn(rows, shape[0])
    assert torch.equal(streamed(conv, x, sizes), streamed(conv, x, []))


def test_the_number_of_threads_changes_no_bit(kernel: ConvKernel) -> None:
    conv, x, before = convolution(*SHAPES[1]), torch.randn(1500, 64), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(streamed(conv, x, [700]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_without_the_kernel_a_stream_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = convolution(*SHAPES[1]), torch.randn(300, 64)
    native = streamed(conv, x, [3, 90])
    monkeypatch.setattr(conv_module, "load_conv_kernel", lambda: None)
    assert torch.allclose(streamed(conv, x, [3, 90]), native, atol=2e-5)


def test_where_it_does_not_apply(kernel: ConvKernel) -> None:
    conv = convolution(32, 64, 3, 1)
    with torch.inference_mode():
        assert conv_kernel(torch.empty(4, 32), conv.weight) is kernel
        assert conv_kernel(torch.empty(4, 32).bfloat16(), conv.weight) is None
    assert conv_kernel(torch.empty(4, 32), conv.weight) is None, "gradients are on"
    assert not kernel.supports(torch.empty(4, 32), convolution(32, 1, 7, 1).weight)
    assert not kernel.supports(torch.empty(32, 4).t(), conv.weight)


@pytest.mark.parametrize("flags", OTHER_FLAGS)
def test_other_processors_have_it_too(tmp_path: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    built = ConvKernel(build(CONV_PROGRAM, tmp_path, flags))
    monkeypatch.setattr(conv_module, "load_conv_kernel", lambda: built)
    for shape in SHAPES:
        assert_is_pytorchs(shape, rows=520)
