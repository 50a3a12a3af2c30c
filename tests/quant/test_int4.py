"""Int4 weights: kernels equal dequantised matmul, the scale search beats the plain scale, models answer alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vita
from vita.checkpoint.convert import convert
from vita.checkpoint.files import DEFAULT
from vita.checkpoint.open import open_checkpoint
from vita.kernels.cpu.bindings import GROUP_SIZE, compiled, kernels
from vita.planning.flops import weight_bytes
from vita.quant import int4
from vita.quant.int4 import Int4Linear, quantize_groups, unpack
from vita.quant.int8 import Int8Linear
from vita.quant.scheme import quantize_modules
from vita.types import SamplingParams
from vita.verify import run
from vita.verify.run import DEFAULT_OPTIONS

PARAMS = SamplingParams(max_tokens=12)
TOLERANCE = 0.012  # relative: the kernel quantises activations to int8


def layer_of(out: int, groups: int, seed: int = 0) -> Int4Linear:
    layer = Int4Linear(groups * GROUP_SIZE, out, bias=False)
    noise = torch.Generator().manual_seed(seed)
    layer.weight, layer.scale = quantize_groups(torch.randn(out, groups * GROUP_SIZE, generator=noise) * 0.03)
    return layer


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int4, "kernels", lambda: None)


@given(st.integers(0, 2**31), st.sampled_from([1e-4, 0.02, 1.0, 300.0]))
@settings(max_examples=25)
def test_packing_keeps_every_value(seed: int, size: float) -> None:
    weight = torch.randn(6, 3 * GROUP_SIZE, generator=torch.Generator().manual_seed(seed)) * size
    weight[2] = 0
    packed, scale = quantize_groups(weight)
    back = unpack(packed, scale).float()
    assert packed.dtype == torch.uint8 and packed.shape == (6, 96) and scale.shape == (6, 3)
    assert (back[2] == 0).all(), "zeros stay zero"
    again, _ = quantize_groups(back)
    assert relative(unpack(again, quantize_groups(back)[1]).float(), back) < 0.02, "quantising twice changes little"
    step = scale.float().abs().repeat_interleave(GROUP_SIZE, 1)
    assert ((back - weight).abs() <= 4.5 * step).all()


def test_the_scale_search_beats_the_scale_of_the_largest_value() -> None:
    weight = torch.randn(64, 8 * GROUP_SIZE, generator=torch.Generator().manual_seed(1))
    groups = weight.view(64, 8, GROUP_SIZE)
    scale = groups.abs().amax(-1, keepdim=True) / 7
    plain = ((groups / scale).round().clamp(-8, 7) * scale).view_as(weight)
    assert relative(unpack(*quantize_groups(weight)).float(), weight) < 0.9 * relative(plain, weight)


@pytest.mark.skipif(kernels() is None, reason=f"SKIPPED LOUDLY: {compiled().reason}")
class TestKernel:
    @given(st.integers(1, 70), st.integers(1, 37), st.integers(1, 19))
    @settings(max_examples=40, deadline=None)
    def test_the_kernel_equals_the_dequantized_matmul(self, out: int, groups: int, rows: int) -> None:
        layer = layer_of(out, groups, out)
        kernel = kernels()
        assert kernel is not None
        x = torch.randn(rows, groups * GROUP_SIZE, generator=torch.Generator().manual_seed(rows))
        exact = unpack(layer.weight, layer.scale).float()
        got = kernel.gemm_int4(x, layer.weight, layer.scale, None)
        assert (
            (got - x @ exact.t()).norm() <= TOLERANCE * x.norm() * exact.norm() / (groups * GROUP_SIZE) ** 0.5 * 2
        ).item()

    def test_each_row_equals_the_row_alone(self) -> None:
        layer, x = layer_of(33, 5), torch.randn(13, 5 * GROUP_SIZE)
        kernel = kernels()
        assert kernel is not None
        batched = kernel.gemm_int4(x, layer.weight, layer.scale, None)
        alone = torch.cat([kernel.gemm_int4(row[None].contiguous(), layer.weight, layer.scale, None) for row in x])
        torch.testing.assert_close(batched, alone, atol=1e-5, rtol=1e-5)

    def test_the_dequantize_kernel_equals_unpack(self) -> None:
        layer = layer_of(40, 7)
        kernel = kernels()
        assert kernel is not None
        out = torch.empty(40, 7 * GROUP_SIZE, dtype=torch.bfloat16)
        kernel.int4_dequantize(layer.weight, layer.scale, out)
        assert torch.equal(out, unpack(layer.weight, layer.scale))

    def test_nan_and_inf_become_nan_in_their_row_alone(self) -> None:
        layer = layer_of(8, 2)
        for bad in (float("nan"), float("inf")):
            x = torch.ones(3, 2 * GROUP_SIZE)
            x[1, 70] = bad
            out = layer(x)
            assert torch.isnan(out[1]).all() and torch.isfinite(out[[0, 2]]).all()

    def test_zeros_and_large_values_stay_finite(self) -> None:
        layer = layer_of(8, 2)
        x = torch.zeros(2, 2 * GROUP_SIZE)
        assert (layer(x) == 0).all()
        x[1, 5] = 1e30
        assert torch.isfinite(layer(x)).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_few_and_many_rows_agree(self, dtype: torch.dtype) -> None:
        layer = layer_of(48, 6)
        x = torch.randn(Int4Linear.max_small_rows + 8, 6 * GROUP_SIZE).to(dtype)
        many = layer(x)
        few = torch.cat([layer(part) for part in x.split(Int4Linear.max_small_rows // 2)])
        assert many.dtype == dtype and relative(few.float(), many.float()) < 2 * TOLERANCE


@pytest.mark.usefixtures("no_kernel")
def test_without_a_compiler_the_result_is_the_dequantized_matmul() -> None:
    layer, x = layer_of(20, 3), torch.randn(4, 3 * GROUP_SIZE)
    torch.testing.assert_close(layer(x), x @ unpack(layer.weight, layer.scale).float().t())


def test_the_head_and_odd_widths_are_int8() -> None:
    with torch.device("meta"):
        net = torch.nn.ModuleDict({"a": torch.nn.Linear(64, 8), "b": torch.nn.Linear(65, 8)})
        net["head"] = torch.nn.Linear(64, 8)
    quantize_modules(net, "int4")
    assert [type(m) for m in net.values()] == [Int4Linear, Int8Linear, Int8Linear]


class TestModels:
    def test_a_converted_folder_answers_as_quantizing_on_load(self, tmp_path: Path) -> None:
        """The embedded model, whose widths are multiples of 64."""
        asked = vita.user("Hello.", image=torch.full((224, 224, 3), 90).byte().numpy())
        expected = vita.Result.collect(vita.load(DEFAULT, quantize="int4", device="cpu").stream(asked, PARAMS))
        convert(open_checkpoint(DEFAULT), tmp_path / "out", "int4")
        converted = vita.load(tmp_path / "out", device="cpu")
        assert converted.engine.model.quantize == "int4"
        assert vita.Result.collect(converted.stream(asked, PARAMS)).token_ids == expected.token_ids
        decoder = converted.engine.model.decoder
        assert isinstance(decoder.layers[0].mlp.up, Int4Linear) and isinstance(decoder.head, Int8Linear)
        assert not any(isinstance(m, Int4Linear) for m in converted.engine.model.vision.modules())
        plain = vita.load(DEFAULT, device="cpu")
        floats = weight_bytes(plain.engine.model.decoder)  # in float32; a step may read a copy in bfloat16
        read, unquantized = (m.ask("Hello.", params=PARAMS).timings.bytes_per_token for m in (converted, plain))
        assert read < 0.25 * floats and read < unquantized

    def test_widths_that_are_not_a_multiple_of_64_are_int8(self, mini: Path) -> None:
        rows = list(run(mini, replace(DEFAULT_OPTIONS, quantize="int4")))
        assert not [r for r in rows if r.status == "fail"]
        assert {"logit KL", "top-1 changed"} <= {r.stage for r in rows}
