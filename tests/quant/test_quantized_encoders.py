"""Int8 encoders: only with a `+encoders` scheme, the same from a converted folder, and nearly the same features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.make_checkpoint import RELEASED, USED_VOCAB

import vita
from vita.checkpoint.convert import convert
from vita.checkpoint.open import DEFAULT, open_checkpoint
from vita.layers.linear import Linear
from vita.planning.memory_plan import part_bytes, predict_memory
from vita.quant.int8 import Int8Linear
from vita.types import SamplingParams

PARTS = ("vision", "projector", "audio", "adapter")
PARAMS = SamplingParams(max_tokens=24)
LOGO = Path(__file__).parents[2] / "assets" / "vita_logo.png"


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_encoders_are_quantized_only_with_an_encoders_scheme(scheme: str) -> None:
    model = vita.load(DEFAULT, quantize=scheme, device="cpu")
    named = vita.load(DEFAULT, quantize=f"{scheme}+encoders", device="cpu")
    for part in PARTS:
        assert not any(isinstance(m, Int8Linear) for m in model.engine.part(part).modules()), part
        layers = [m for m in named.engine.part(part).modules() if isinstance(m, (Linear, Int8Linear))]
        assert layers and all(isinstance(m, Int8Linear) for m in layers), part
    assert type(model.engine.decoder.layers[0].mlp.up) is type(named.engine.decoder.layers[0].mlp.up)


def test_a_quantized_encoder_gives_nearly_the_same_features() -> None:
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    plain, quantized = (
        vita.load(DEFAULT, quantize=q, device="cpu", dtype="float32").engine.part("vision")
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
    assert any(isinstance(m, Int8Linear) for m in converted.engine.part("audio").modules())
    assert vita.Result.collect(converted.stream(asked, PARAMS, options=tiled)).token_ids == expected.token_ids


def test_the_released_model_needs_less_with_them() -> None:
    sizes = (RELEASED, USED_VOCAB, torch.bfloat16)
    for part in ("vision", "projector", "audio"):  # an adapter is mostly convolutions
        assert part_bytes(part, *sizes, "int4+encoders") < 0.6 * part_bytes(part, *sizes, "int4"), part
    totals = [
        sum(predict_memory(*sizes, 2048, scheme, device=torch.device("cuda")).values())
        for scheme in ("int4", "int4+encoders")
    ]
    assert 0.5e9 < totals[0] - totals[1] < 0.8e9
