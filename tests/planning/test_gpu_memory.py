"""The memory that `vita info --device cuda` states is near what a GPU was measured to need."""

from __future__ import annotations

import json

import pytest
import torch
from benchmarks.make_checkpoint import RELEASED, USED_VOCAB

from vita.cli.info import describe
from vita.config import VitaConfig
from vita.model.vita import VitaModel
from vita.options import Quantize
from vita.planning.memory_plan import AUDIO, Placement, predict_memory

GPU = Placement(device=torch.device("cuda"), dtype=torch.bfloat16)
# GB at the peak of the demo request (1,435 positions, 300 tokens) on an H200, the audio encoder not loaded.
MEASURED: dict[Quantize | None, float] = {None: 15.3, "int8": 8.8, "int4": 5.7}


@pytest.fixture(scope="module")
def released() -> VitaModel:
    config: VitaConfig = RELEASED
    return VitaModel.on_meta(config, USED_VOCAB)


@pytest.mark.parametrize("scheme", MEASURED)
@pytest.mark.parametrize("positions", [1735, 2048])
def test_the_prediction_is_within_ten_per_cent_of_the_peak(
    released: VitaModel, scheme: Quantize | None, positions: int
) -> None:
    parts = predict_memory(released, GPU, scheme, positions)
    predicted = (sum(parts.values()) - parts[AUDIO]) / 1e9
    assert abs(predicted / MEASURED[scheme] - 1) < 0.10, (predicted, json.dumps(parts))


def test_info_states_audio_apart(released: VitaModel) -> None:
    parts = predict_memory(released, GPU, "int4", 1735)
    facts = {
        "model": "m", "layout": "main", "parameters": {"decoder": 1}, "total": 1, "memory": parts,
        "memory_context": 1735,
        "stored_bytes": 1, "stored_dtypes": ["bfloat16"], "dtype": "bfloat16", "device": "cuda", "dtype_reason": "",
        "linears": "native", "quantized": "int4", "available": 10**11, "shortage": None, "kv_budget": 10**9,
        "memory_limit": None, "streamed_layers": 0, "context": 1, "vocabulary": 1, "most_tiles": 1, "tile": 448,
        "tokens_per_tile": 256, "speech_output": False, "untrained": [], "problem": None,
    }  # fmt: skip
    line = next(line for line in describe(facts) if line.startswith("memory"))
    stated = float(line.split("about ")[1].split(" GB")[0])
    assert abs(stated / MEASURED["int4"] - 1) < 0.10 and "0.75 GB more with audio" in line
