"""Backends are tried before they are relied on: one that fails or is wrong is logged and the next one is taken."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from vita.kernels import humming, reference
from vita.kernels.matmul import REFERENCE, Backend, Bound, MatmulChooser, Rows
from vita.kernels.weight import Weight
from vita.quant.int4 import quantize_groups
from vita.quant.int8 import quantize_rows

KINDS: tuple[Rows, ...] = ("one", "batch", "many")


def weight(channels: int = 64, width: int = 128) -> Weight:
    return Weight(torch.randn(channels, width), None, torch.randn(channels))


def raises(*_: Any, **__: Any) -> None:
    raise RuntimeError("no kernel image")


def wrong(x: Tensor, stored: Weight, out: Tensor, **options: Any) -> None:
    reference.linear(x, stored, out, **options)
    out.mul_(1.5)


def silent(*_: Any, **__: Any) -> None:
    """Leaves `out` as it is."""


def chooser(*backends: Backend, converting: tuple[Backend, ...] = ()) -> MatmulChooser:
    return MatmulChooser(dict.fromkeys(KINDS, backends), converting, torch.float32)


def backend(name: str, function: Any, supported: bool = True) -> Backend:
    return Backend(name, lambda stored, dtype: supported, lambda stored: Bound(function, stored))


def test_the_first_that_passes_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    found = chooser(backend("raises", raises), backend("wrong", wrong), backend("silent", silent), REFERENCE)
    with caplog.at_level(logging.WARNING):
        matmuls = found.choose(weight(), swiglu=True)
    assert found.chosen == {"PyTorch"} and not matmuls.converted
    text = caplog.text
    assert "raises is not used for a weight of float32 [64, 128] (one): RuntimeError: no kernel image" in text
    assert "wrong is not used for a weight of float32 [64, 128] (batch): its result differs by" in text
    assert text.count("silent is not used") == 3


def test_a_weight_of_the_same_shape_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    found = chooser(backend("raises", raises))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            found.choose(weight())
    assert caplog.text.count("raises is not used") == 3, "once for one, a batch and many rows"


def test_what_supports_nothing_is_passed_over_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    found = chooser(backend("elsewhere", raises, supported=False))
    out = torch.zeros(1, 64)
    with caplog.at_level(logging.WARNING):
        found.choose(weight()).one(torch.ones(1, 128), out)
    assert not caplog.text and (out != 0).any()


class FakeHummingLayer(torch.nn.Module):
    """The interface of humming-kernels' `HummingLayer` that is used here, for unsigned integers of `bits` packed into
    int32 along the inputs, the first lowest, minus 2**(bits - 1)."""

    def __init__(
        self, shape_n: int, shape_k: int, weight_config: dict[str, Any], torch_dtype: torch.dtype, has_bias: bool
    ) -> None:
        super().__init__()
        self.bits, self.group = int(weight_config["dtype"].removeprefix("int")), weight_config["group_size"] or shape_k
        assert torch_dtype == torch.bfloat16 and set(weight_config) == {"dtype", "group_size"}
        self.register_buffer("weight", torch.empty(shape_n, shape_k * self.bits // 32, dtype=torch.int32))
        self.register_buffer("weight_scale", torch.empty(shape_n, shape_k // self.group, dtype=torch_dtype))
        if has_bias:
            self.register_buffer("bias", torch.empty(shape_n, dtype=torch_dtype))
        self.ready = False

    def load_from_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.load_state_dict(tensors, strict=True)

    def transform(self) -> None:
        self.ready = True

    def forward(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        assert self.ready and inputs.is_contiguous() and outputs.is_contiguous()
        shifts = torch.arange(0, 32, self.bits)
        integers = (self.weight[..., None] >> shifts & (1 << self.bits) - 1).flatten(1) - (1 << self.bits - 1)
        floats = integers.float() * self.weight_scale.float().repeat_interleave(self.group, dim=1)
        bias = self.bias.float() if hasattr(self, "bias") else None
        return outputs.copy_(torch.nn.functional.linear(inputs.float(), floats, bias))


@pytest.fixture
def fake_humming(monkeypatch: pytest.MonkeyPatch) -> None:
    package, layer = ModuleType("humming"), ModuleType("humming.layer")
    layer.HummingLayer = FakeHummingLayer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "humming", package)
    monkeypatch.setitem(sys.modules, "humming.layer", layer)
    monkeypatch.setattr(humming, "find_spec", lambda name: object())


def finish(sums: Tensor, out: Tensor, *, residual: Tensor | None, swiglu: bool) -> None:
    ys = sums.sum(0)
    if swiglu:
        gate, up = ys.chunk(2, dim=1)
        ys = torch.nn.functional.silu(gate) * up
    out.copy_(ys if residual is None else ys + residual)


@pytest.mark.usefixtures("fake_humming")
@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("biased", [False, True])
def test_weights_are_converted_for_humming(kind: str, biased: bool) -> None:
    floats = torch.randn(128, 192)
    stored = Weight(
        *(quantize_rows(floats) if kind == "int8" else quantize_groups(floats)),
        torch.randn(128).bfloat16() if biased else None,
    )
    x = torch.randn(5, 192).bfloat16()
    assert humming.supports(stored, torch.bfloat16)
    matmul = humming.HummingMatmul(128, humming.convert(stored), finish)
    out, wanted = torch.zeros(5, 128, dtype=torch.bfloat16), torch.zeros(5, 128, dtype=torch.bfloat16)
    matmul(x, out)
    reference.linear(x, stored, wanted)
    torch.testing.assert_close(out, wanted, atol=0.1, rtol=0.02)


def test_humming_computes_on_the_device_of_x(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library launches on the thread's current device, which is the first one even for a model on the second."""
    current: list[Tensor] = []

    @contextmanager
    def device_of(tensor: Tensor) -> Iterator[None]:
        current.append(tensor)
        yield
        current.pop()

    def layer(inputs: Tensor, outputs: Tensor) -> Tensor:
        assert len(current) == 1 and current[0] is x
        return outputs.fill_(1)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    x, out = torch.randn(2, 64), torch.zeros(2, 64)
    humming.HummingMatmul(64, layer, finish)(x, out)
    assert (out == 1).all()


@pytest.mark.usefixtures("fake_humming")
def test_humming_takes_neither_the_head_nor_floats_nor_other_dtypes() -> None:
    head = Weight(torch.zeros(151665, 64, dtype=torch.int8), torch.ones(151665).bfloat16(), None)
    assert not humming.supports(head, torch.bfloat16)
    assert not humming.supports(Weight(torch.ones(64, 64).bfloat16(), None, None), torch.bfloat16)
    int8 = Weight(torch.zeros(64, 64, dtype=torch.int8), torch.ones(64).bfloat16(), None)
    assert humming.supports(int8, torch.bfloat16) and not humming.supports(int8, torch.float32)


def test_without_the_library_nothing_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(humming, "find_spec", lambda name: None)
    assert not humming.supports(
        Weight(torch.zeros(64, 64, dtype=torch.int8), torch.ones(64).bfloat16(), None), torch.bfloat16
    )


def test_a_converting_backend_serves_all_rows_or_none(caplog: pytest.LogCaptureFixture) -> None:
    def only_few(x: Tensor, stored: Weight, out: Tensor, **options: Any) -> None:
        (wrong if len(x) > 16 else reference.linear)(x, stored, out, **options)

    bound: list[Weight] = []

    def bind(stored: Weight) -> Bound:
        bound.append(stored)
        return Bound(only_few, stored)

    partial = Backend("library", lambda stored, dtype: True, bind)
    found = chooser(REFERENCE, converting=(partial,))
    with caplog.at_level(logging.WARNING):
        assert not found.choose(weight()).converted
        assert not found.choose(weight()).converted
    assert "library is not used for a weight of float32 [64, 128] (many)" in caplog.text
    complete = chooser(REFERENCE, converting=(backend("library", reference.linear),))
    assert complete.choose(weight()).converted and complete.chosen == {"library"}
    assert not complete.choose(weight(), convert=False).converted
