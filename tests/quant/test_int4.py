"""Four-bit weights: the kernel's product is the unpacked one, rounding is better than plain, models answer alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vita
from vita.checkpoint.convert import convert
from vita.checkpoint.open import DEFAULT, open_checkpoint
from vita.kernels.cpu.bindings import GROUP_SIZE, compiled, kernels
from vita.quant import int4
from vita.quant.int4 import Int4Linear, quantize_groups, unpack
from vita.quant.int8 import Int8Linear
from vita.quant.scheme import quantize_modules
from vita.types import SamplingParams
from vita.verify import run

PARAMS = SamplingParams(max_tokens=12)
NEAR = 0.012  # relative: the kernel rounds activations to eight bits


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
    assert (back[2] == 0).all(), "nothing comes of nothing"
    again, _ = quantize_groups(back)
    assert relative(unpack(again, quantize_groups(back)[1]).float(), back) < 0.02, "what is rounded stays"
    step = scale.float().abs().repeat_interleave(GROUP_SIZE, 1)
    assert ((back - weight).abs() <= 4.5 * step).all()


def test_rounding_beats_the_plain_largest_value() -> None:
    weight = torch.randn(64, 8 * GROUP_SIZE, generator=torch.Generator().manual_seed(1))
    groups = weight.view(64, 8, GROUP_SIZE)
    unit = groups.abs().amax(-1, keepdim=True) / 7
    plain = ((groups / unit).round().clamp(-8, 7) * unit).view_as(weight)
    assert relative(unpack(*quantize_groups(weight)).float(), weight) < 0.9 * relative(plain, weight)


@pytest.mark.skipif(kernels() is None, reason=f"SKIPPED LOUDLY: {compiled().reason}")
class TestKernel:
    @given(st.integers(1, 70), st.integers(1, 37), st.integers(1, 19))
    @settings(max_examples=40, deadline=None)
    def test_the_product_is_the_unpacked_one(self, out: int, groups: int, rows: int) -> None:
        layer = layer_of(out, groups, out)
        kernel = kernels()
        assert kernel is not None
        x = torch.randn(rows, groups * GROUP_SIZE, generator=torch.Generator().manual_seed(rows))
        wide = unpack(layer.weight, layer.scale).float()
        got = kernel.gemm_int4(x, layer.weight, layer.scale, None)
        assert ((got - x @ wide.t()).norm() <= NEAR * x.norm() * wide.norm() / (groups * GROUP_SIZE) ** 0.5 * 2).item()

    def test_each_row_is_what_it_is_alone(self) -> None:
        layer, x = layer_of(33, 5), torch.randn(13, 5 * GROUP_SIZE)
        kernel = kernels()
        assert kernel is not None
        together = kernel.gemm_int4(x, layer.weight, layer.scale, None)
        alone = torch.cat([kernel.gemm_int4(row[None].contiguous(), layer.weight, layer.scale, None) for row in x])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)

    def test_widening_is_unpacking(self) -> None:
        layer = layer_of(40, 7)
        kernel = kernels()
        assert kernel is not None
        out = torch.empty(40, 7 * GROUP_SIZE, dtype=torch.bfloat16)
        kernel.int4_dequantize(layer.weight, layer.scale, out)
        assert torch.equal(out, unpack(layer.weight, layer.scale))

    def test_what_is_no_number_stays_none(self) -> None:
        layer = layer_of(8, 2)
        for bad in (float("nan"), float("inf")):
            x = torch.ones(3, 2 * GROUP_SIZE)
            x[1, 70] = bad
            out = layer(x)
            assert torch.isnan(out[1]).all() and torch.isfinite(out[[0, 2]]).all()

    def test_zeros_and_large_values_are_harmless(self) -> None:
        layer = layer_of(8, 2)
        x = torch.zeros(2, 2 * GROUP_SIZE)
        assert (layer(x) == 0).all()
        x[1, 5] = 1e30
        assert torch.isfinite(layer(x)).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_few_and_many_rows_agree(self, dtype: torch.dtype) -> None:
        layer = layer_of(48, 6)
        x = torch.randn(Int4Linear.few + 8, 6 * GROUP_SIZE).to(dtype)
        many = layer(x)
        few = torch.cat([layer(part) for part in x.split(Int4Linear.few // 2)])
        assert many.dtype == dtype and relative(few.float(), many.float()) < 2 * NEAR


@pytest.mark.usefixtures("no_kernel")
def test_without_a_compiler_the_answer_is_the_same_product() -> None:
    layer, x = layer_of(20, 3), torch.randn(4, 3 * GROUP_SIZE)
    torch.testing.assert_close(layer(x), x @ unpack(layer.weight, layer.scale).float().t())


def test_the_head_and_odd_widths_keep_eight_bits() -> None:
    with torch.device("meta"):
        net = torch.nn.ModuleDict({"a": torch.nn.Linear(64, 8), "b": torch.nn.Linear(65, 8)})
        net["head"] = torch.nn.Linear(64, 8)
    quantize_modules(net, "int4")
    assert [type(m) for m in net.values()] == [Int4Linear, Int8Linear, Int8Linear]


class TestModels:
    def test_a_converted_folder_answers_as_rounding_on_load(self, tmp_path: Path) -> None:
        """The embedded model, whose widths are multiples of 64."""
        asked = vita.user("Hello.", image=torch.full((224, 224, 3), 90).byte().numpy())
        expected = vita.Result.collect(vita.load(DEFAULT, quantize="int4", device="cpu").stream(asked, PARAMS))
        convert(open_checkpoint(DEFAULT), tmp_path / "out", "int4")
        converted = vita.load(tmp_path / "out", device="cpu")
        assert converted.engine.quantize == "int4"
        assert vita.Result.collect(converted.stream(asked, PARAMS)).token_ids == expected.token_ids
        decoder = converted.engine.decoder
        assert isinstance(decoder.layers[0].mlp.up, Int4Linear) and isinstance(decoder.head, Int8Linear)
        assert not any(isinstance(m, Int4Linear) for m in converted.engine.part("vision").modules())
        whole = vita.load(DEFAULT, device="cpu").ask("Hello.", params=PARAMS).timings.bytes_per_token
        assert converted.ask("Hello.", params=PARAMS).timings.bytes_per_token < 0.25 * whole

    def test_widths_that_do_not_fit_are_in_eight_bits(self, mini: Path) -> None:
        rows = list(run(mini, quantize="int4"))
        assert not [r for r in rows if r.status == "fail"]
        assert {"logit KL", "top-1 changed"} <= {r.stage for r in rows}
