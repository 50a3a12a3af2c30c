"""Int8 weights: small error, a converted folder answers as quantising on load does, and bad input is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.checkpoints import AUDIO, VISION, copy_mini, edit_json, read_tensors, write_single
from torch import nn

import vita
from vita.checkpoint.convert import convert
from vita.checkpoint.open import open_checkpoint
from vita.errors import CheckpointError, RequestError, ResourceError
from vita.kernels.cpu.bindings import INT8_ROWS, kernels
from vita.layers.linear import Linear
from vita.planning.flops import weight_bytes
from vita.quant import int8
from vita.quant.int8 import Int8Linear, quantize_rows
from vita.quant.scheme import quantize_modules
from vita.types import SamplingParams
from vita.verify import run
from vita.verify.run import DEFAULT_OPTIONS

PARAMS = SamplingParams(max_tokens=12)


def layer_of(weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> Int8Linear:
    layer = Int8Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight, layer.scale = quantize_rows(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return layer


@given(st.integers(0, 2**31), st.sampled_from([1e-4, 0.02, 1.0, 30.0]))
def test_the_error_is_at_most_half_a_quantization_step(seed: int, size: float) -> None:
    weight = torch.randn(9, 33, generator=torch.Generator().manual_seed(seed)) * size
    weight[3] = 0
    quantized, scale = quantize_rows(weight)
    assert quantized.dtype == torch.int8 and quantized.abs().max() <= 127 and (quantized[3] == 0).all()
    step = scale.float()[:, None]
    error = (quantized.float() * step - weight).abs()
    # The scale is rounded to bfloat16, by 1 in 256 at most, which can clip the largest value of a row by that much.
    assert (error <= step * 0.5 + weight.abs() / 256 + 1e-12).all()


@pytest.fixture(params=["native kernel", "PyTorch's"])
def either_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "native kernel":
        monkeypatch.setattr(int8, "kernels", lambda: None)
    elif kernels() is None:
        pytest.skip("NO COMPILER: the native kernels are not built here")


@pytest.mark.usefixtures("either_kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 3, INT8_ROWS, INT8_ROWS + 1, 70])
def test_both_kernels_multiply_by_the_stored_weights(dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(0)
    layer = layer_of(torch.randn(96, 160) * 0.05, torch.randn(96), dtype)
    x = torch.randn(2, rows, 160).to(dtype)
    exact = x.float() @ (layer.weight.float() * layer.scale.float()[:, None]).t() + layer.bias.float()  # type: ignore[union-attr]
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    torch.testing.assert_close(layer(x).float(), exact, atol=tolerance, rtol=tolerance)
    layer.route = "upcast"
    torch.testing.assert_close(layer(x).float(), exact, atol=tolerance, rtol=tolerance)


def test_large_sums_stay_within_float16() -> None:
    weight, x = torch.full((8, 4096), 0.01), torch.full((20, 4096), 1.0, dtype=torch.float16)
    layer = layer_of(weight, None, torch.float16)
    torch.testing.assert_close(layer(x).float(), torch.full((20, 8), 40.96), atol=0.3, rtol=0.01)


@pytest.mark.usefixtures("either_kernel")
@pytest.mark.parametrize("offset", [0, 1, 8])
@pytest.mark.parametrize("channels", [1001, 1002, 1003, 3])
def test_weights_of_a_mapped_file_may_be_unaligned(offset: int, channels: int) -> None:
    """PyTorch 2.13's kernel crashes the process here; a tensor of a mapped file may start at any byte."""
    memory = torch.zeros(channels * 64 + 64 + offset, dtype=torch.int8)
    start = -memory.data_ptr() % 64 + offset
    layer = Int8Linear(64, channels, bias=False)
    quantized, layer.scale = quantize_rows(torch.randn(channels, 64))
    layer.weight = memory[start : start + channels * 64].view(channels, 64).copy_(quantized)
    x = torch.randn(1, 64)
    torch.testing.assert_close(layer(x), (x @ quantized.float().t()) * layer.scale.float(), atol=1e-4, rtol=1e-4)


def test_every_linear_layer_is_replaced() -> None:
    with torch.device("meta"):
        net = nn.Sequential(Linear(4, 8), nn.Sequential(Linear(8, 2, bias=False)))
    assert quantize_modules(net, "int8") == ["0", "1.0"]
    kinds = [type(m) for m in net.modules() if not isinstance(m, nn.Sequential)]
    assert kinds == [Int8Linear, Int8Linear] and net[0].weight.is_meta


class TestModels:
    def test_results_are_within_the_tolerances(self, mini: Path) -> None:
        rows = list(run(mini, replace(DEFAULT_OPTIONS, quantize="int8")))
        assert not [r for r in rows if r.status == "fail"], [r for r in rows if r.status == "fail"]
        assert {"logit KL", "top-1 changed", "perplexity change"} <= {r.stage for r in rows}
        assert max(r.difference or 0 for r in rows if r.stage == "logit KL") > 0, "something was quantised"

    @pytest.mark.parametrize("layout", ["main", "single file", "tied"])
    def test_a_converted_folder_answers_as_quantizing_on_load(self, mini: Path, tmp_path: Path, layout: str) -> None:
        folder = copy_mini(mini, tmp_path)
        tensors = read_tensors(folder)
        if layout == "tied":
            edit_json(folder / "config.json", lambda c: c.update(tie_word_embeddings=True))
            del tensors["lm_head.weight"]
        if layout != "main":
            write_single(folder, tensors)
        asked = vita.user("Hello", image=torch.zeros(40, 60, 3).byte().numpy())
        loaded = vita.load(folder, quantize="int8", device="cpu")
        expected = vita.Result.collect(loaded.stream(asked, PARAMS))
        convert(open_checkpoint(folder), tmp_path / "out", "int8")
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / VISION)
        converted = vita.load(tmp_path / "out", device="cpu")
        assert converted.engine.model.quantize == "int8"
        assert vita.Result.collect(converted.stream(asked, PARAMS)).token_ids == expected.token_ids
        assert json.loads((tmp_path / "out" / "config.json").read_text())["vita_quantization"] == "int8"
        assert (tmp_path / "out" / AUDIO / "train.yaml").is_file()
        layers = converted.engine.model.decoder.layers
        assert isinstance(layers[0].mlp.up, Int8Linear) and isinstance(converted.engine.model.decoder.head, Int8Linear)
        assert not any(isinstance(m, Int8Linear) for m in converted.engine.model.vision.modules())

    def test_a_folder_converted_from_the_hub_cache_is_complete(self, mini: Path, tmp_path: Path) -> None:
        folder = copy_mini(mini, tmp_path)
        edit_json(folder / "config.json", lambda c: c.update(mm_vision_tower="/nowhere/" + VISION))
        checkpoint = open_checkpoint(folder)
        snapshot = Path(shutil.move(tmp_path / VISION, tmp_path / "abc123"))  # a snapshot's folder has another name
        sides = ((VISION, snapshot), *checkpoint.side_folders[1:])
        convert(replace(checkpoint, side_folders=sides), tmp_path / "elsewhere" / "out", "int8")
        assert open_checkpoint(tmp_path / "elsewhere" / "out", offline=True).config.vision.image_size == 112

    def test_verifying_unquantized_keeps_the_float32_tolerance(self, mini: Path) -> None:
        options = replace(DEFAULT_OPTIONS, quantize="none")
        tolerances = {r.tolerance for r in run(mini, options) if r.stage == "logits"}
        assert tolerances == {1e-4}

    def test_fewer_bytes_are_read_a_token(self, mini: Path) -> None:
        plain, quantized = (vita.load(mini / "mini_ckpt", device="cpu", quantize=q) for q in (None, "int8"))
        read = [m.ask("Hello", params=PARAMS).timings.bytes_per_token for m in (plain, quantized)]
        floats = weight_bytes(plain.engine.model.decoder)  # in float32; a step may read a copy in bfloat16
        assert read[1] < 0.5 * floats and read[1] < read[0]

    def test_a_conversion_that_is_not_possible_is_refused(
        self, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint = open_checkpoint(mini / "mini_ckpt")
        with pytest.raises(RequestError, match="unknown scheme 'int3'; use int8 or int4"):
            vita.load(mini / "mini_ckpt", quantize="int3")
        with pytest.raises(RequestError, match="unknown scheme 'int3'"):
            vita.load(memory="1GB", quantize="int3")
        (tmp_path / "taken").mkdir()
        with pytest.raises(RequestError, match="exists already; name a folder that does not exist"):
            convert(checkpoint, tmp_path / "taken", "int8")
        convert(checkpoint, tmp_path / "out", "int8")
        with pytest.raises(RequestError, match="is quantised already"):
            convert(open_checkpoint(tmp_path / "out"), tmp_path / "again", "int8")
        with pytest.raises(RequestError, match="the checkpoint is stored in int8; leave it out"):
            vita.load(tmp_path / "out", quantize="int4")
        edit_json(tmp_path / "out" / "config.json", lambda c: c.update(vita_quantization="int2"))
        with pytest.raises(CheckpointError, match="vita_quantization 'int2' is not supported"):
            open_checkpoint(tmp_path / "out")
        edit_json(tmp_path / "out" / "config.json", lambda c: c.pop("vita_quantization"))
        with pytest.raises(CheckpointError, match=r"of another shape or type \(.*torch.int8 instead of torch.float32"):
            vita.load(tmp_path / "out")
        usage = shutil._ntuple_diskusage(100, 90, 10)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(ResourceError, match="are free; free some"):
            convert(checkpoint, tmp_path / "full", "int8")
        assert not list(tmp_path.glob("full*"))

    def test_a_failed_conversion_leaves_nothing(
        self, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("vita.checkpoint.convert._write_shards", fail)
        with pytest.raises(KeyboardInterrupt):
            convert(open_checkpoint(mini / "mini_ckpt"), tmp_path / "out", "int8")
        assert not list(tmp_path.iterdir())
