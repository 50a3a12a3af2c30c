"""`vita verify --quantize`: the engine computes the format exactly, and the tolerance tells the format from a fault."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.checkpoints import read_tensors, write_single
from torch import Tensor, nn

from vita.checkpoint.open import open_checkpoint
from vita.engine.loaded import LoadedModel
from vita.layers.linear import Linear
from vita.options import EngineOptions
from vita.quant.int8 import Int8Linear
from vita.quant.linear import QuantizedLinear
from vita.verify import Row, run
from vita.verify.cases import verify_case
from vita.verify.encoders import verify_audio, verify_vision
from vita.verify.rows import QUANTIZED_TOLERANCE, Reference, compare, compare_relative
from vita.verify.run import DEFAULT_OPTIONS, read_inputs

FLOAT32 = EngineOptions(device="cpu", dtype="float32")
INT8 = replace(FLOAT32, quantize="int8+encoders")
Stages = dict[tuple[str, str], Tensor]


class Recorder(Reference):
    """Keeps what is compared."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, torch.float32)
        self.stages: Stages = {}

    def compare(self, stage: str, case: str, name: str, ours: Tensor, tolerance: float | None = None) -> Row:
        self.stages[stage, case] = ours.detach().clone()
        return Row(stage, case, 0.0, 0.0)


def stages(mini: Path, model: LoadedModel) -> Stages:
    """Every tensor that `vita verify` compares, of all cases."""
    reference = json.loads((mini / "model" / "model.json").read_text())
    inputs, numbers = read_inputs(mini, reference["inputs"], model), Recorder(mini)
    with torch.inference_mode():
        list(verify_vision(model, inputs.pixels["image"][:1], numbers))
        list(verify_audio(model, inputs.filterbanks, numbers))
        for name, case in reference["cases"].items():
            short = case | {"greedy_ids": case["greedy_ids"][:1]}
            list(verify_case(model, name, short, inputs.pixels, inputs.filterbanks, numbers))
    return numbers.stages


def dequantized(model: LoadedModel) -> LoadedModel:
    """The model with every quantised layer replaced by a float32 one of the same values."""
    replaced = 0
    for part in (model.vision, model.projector, model.audio, model.adapter, model.decoder):
        for path, layer in list(part.named_modules()):
            if not isinstance(layer, QuantizedLinear):
                continue
            assert isinstance(layer, Int8Linear)
            plain = Linear(layer.in_features, layer.out_features, layer.bias is not None)
            plain.weight = nn.Parameter(layer.weight.float() * layer.scale.float()[:, None], requires_grad=False)
            if layer.bias is not None:
                plain.bias = layer.bias
            parent, _, name = path.rpartition(".")
            setattr(part.get_submodule(parent), name, plain)
            replaced += 1
    assert replaced > 20
    return model


def with_random_weights(mini: Path, out: Path, seed: int) -> Path:
    """The mini checkpoint with matrices drawn from normal distributions of the same deviation."""
    for name in ("mini_ckpt", "InternViT-mini-112px"):
        shutil.copytree(mini / name, out / name)
    generator, tensors = torch.Generator().manual_seed(seed), read_tensors(out / "mini_ckpt")
    for name, tensor in tensors.items():
        if tensor.dim() >= 2:
            noise = torch.randn(tensor.shape, generator=generator)
            tensors[name] = (noise * tensor.float().std()).to(tensor.dtype)
    write_single(out / "mini_ckpt", tensors)
    return out / "mini_ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8+encoders", "int4+encoders"])
def test_quantized_encoders_pass(mini: Path, scheme: str) -> None:
    rows = list(run(mini, replace(DEFAULT_OPTIONS, quantize=scheme)))
    assert not [r for r in rows if r.status == "fail"], [r for r in rows if r.status == "fail"]
    assert max(r.difference or 0 for r in rows if r.stage == "projector") > 0, "encoders were quantised"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_engine_computes_the_format_exactly(mini: Path, tmp_path: Path, seed: int) -> None:
    """So the whole difference to the reference is the format's; and it is within the tolerance for other weights."""
    checkpoint = open_checkpoint(with_random_weights(mini, tmp_path, seed) if seed else mini / "mini_ckpt")
    plain = stages(mini, LoadedModel(checkpoint, FLOAT32))
    quantized = stages(mini, LoadedModel(checkpoint, INT8))
    exact = stages(mini, dequantized(LoadedModel(checkpoint, INT8)))
    assert set(plain) == set(quantized) == set(exact) and len(plain) > 45
    for (stage, case), ours in quantized.items():
        row = compare(stage, case, ours, exact[stage, case], 1e-4)
        assert row.status == "pass", row
        row = compare_relative(stage, case, ours, plain[stage, case], QUANTIZED_TOLERANCE)
        assert row.status == "pass", row


def test_a_fault_in_an_encoder_is_caught(mini: Path, tmp_path: Path) -> None:
    """The adapter's rows are a seventh too large: no difference reaches 0.4, the absolute limit before."""
    copy = Path(shutil.copytree(mini, tmp_path / "set"))
    tensors = read_tensors(copy / "mini_ckpt")
    last = [n for n in tensors if "adpter.project" in n]
    assert len(last) == 2, sorted(tensors)
    for name in last:
        tensors[name] *= 1.14
    write_single(copy / "mini_ckpt", tensors)
    rows = list(run(copy, replace(DEFAULT_OPTIONS, quantize="int8+encoders")))
    assert {"adapter"} <= {r.stage for r in rows if r.status == "fail"}
    absolute = [float(r.note.split()[-1]) for r in rows if r.stage == "adapter"]
    assert len(absolute) == 3 and max(absolute) < 0.4


def test_a_relative_difference_follows_the_scale() -> None:
    ones = torch.ones(4, 3)
    assert compare_relative("s", "c", 1.05 * ones, ones, 0.1).difference == pytest.approx(0.05)
    assert compare_relative("s", "c", 1050 * ones, 1000 * ones, 0.1).difference == pytest.approx(0.05)
    for wrong in (torch.ones(3, 4), torch.full((4, 3), float("nan"))):
        assert compare_relative("s", "c", wrong, ones, 0.1).status == "fail"
    assert compare_relative("s", "c", ones, torch.zeros(4, 3), 0.1).status == "fail"
    assert compare_relative("s", "c", ones, ones, 0.0).status == "pass"
    one_wrong = ones.clone()
    one_wrong[2, 1] += 0.5
    assert compare_relative("s", "c", one_wrong, ones, 0.3).status == "fail", "a single value counts"
