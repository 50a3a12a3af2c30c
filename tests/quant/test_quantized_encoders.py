"""Int8 encoders: only with a `+encoders` scheme, the same from a converted folder, and nearly the same features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.make_checkpoint import RELEASED, USED_VOCAB

import vita
from vita.checkpoint.convert import convert
from vita.checkpoint.files import DEFAULT
from vita.checkpoint.open import open_checkpoint
from vita.layers.linear import Linear
from vita.model.vita import VitaModel
from vita.planning.memory_plan import Placement, part_bytes, predict_memory
from vita.quant.int8 import Int8Linear
from vita.types import SamplingParams

PARAMS = SamplingParams(max_tokens=24)
LOGO = Path(__file__).parents[2] / "assets" / "vita_logo.png"


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_encoders_are_quantized_only_with_an_encoders_scheme(scheme: str) -> None:
    model = vita.load(DEFAULT, quantize=scheme, device="cpu")
    named = vita.load(DEFAULT, quantize=f"{scheme}+encoders", device="cpu")
    plain, quantized = model.engine.model, named.engine.model
    for part in plain.vision, plain.projector, plain.audio, plain.adapter:
        assert not any(isinstance(m, Int8Linear) for m in part.modules()), part
    for part in quantized.vision, quantized.projector, quantized.audio, quantized.adapter:
        layers = [m for m in part.modules() if isinstance(m, (Linear, Int8Linear))]
        assert layers and all(isinstance(m, Int8Linear) for m in layers), part
    assert type(model.engine.model.decoder.layers[0].mlp.up) is type(named.engine.model.decoder.layers[0].mlp.up)


def test_a_quantized_encoder_gives_nearly_the_same_features() -> None:
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    plain, quantized = (
        vita.load(DEFAULT, quantize=q, device="cpu", dtype="float32").engine.model.vision
        for q in (None, "int8+encoders")
    )
    with torch.inference_mode():
        before, after = plain(pixels), quantized(pixels)
    assert torch.nn.functional.cosine_similarity(before, after, dim=-1).mean() > 0.995


def test_a_converted_folder_answers_as_quantizing_on_load(tmp_path: Path) -> None:
    asked = vita.user("What do you see?", image=LOGO)
    tiled = vita.MediaOptions(max_tiles=4)  # the logo in four tiles and a thumbnail
    model = vita.load(DEFAULT, quantize="int8+encoders", device="cpu")
    expected = vita.Result.collect(model.stream(asked, PARAMS, options=tiled))
    convert(open_checkpoint(DEFAULT), tmp_path / "out", "int8+encoders")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vita_quantization"] == "int8+encoders"
    converted = vita.load(tmp_path / "out", device="cpu")
    assert any(isinstance(m, Int8Linear) for m in converted.engine.model.audio.modules())
    assert vita.Result.collect(converted.stream(asked, PARAMS, options=tiled)).token_ids == expected.token_ids


def test_the_released_model_needs_less_with_them() -> None:
    model = VitaModel.on_meta(RELEASED, USED_VOCAB)
    less, more = (part_bytes(model, scheme, torch.bfloat16) for scheme in ("int4+encoders", "int4"))
    for part in ("vision", "projector", "audio"):  # an adapter is mostly convolutions
        assert less[part] < 0.6 * more[part], part
    gpu = Placement(device=torch.device("cuda"), dtype=torch.bfloat16)
    totals = [sum(predict_memory(model, gpu, scheme, 2048).values()) for scheme in ("int4", "int4+encoders")]
    assert 0.5e9 < totals[0] - totals[1] < 0.8e9
