"""What is predicted before loading is what a process then takes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.make_checkpoint import RELEASED, write_configs, write_tokenizer, write_weights

from vita.cli.info import collect
from vita.config import AudioConfig, DecoderConfig, VisionConfig, VitaConfig
from vita.options import EngineOptions, Quantize

# Large enough that the weights count beside Python and PyTorch, small enough to be written in a second or two.
MIDDLE: VitaConfig = replace(
    RELEASED,
    decoder=DecoderConfig(512, 4096, 24, 8, 2, 152064),
    vision=VisionConfig(256, 1024, 4, 4, 448, 14, 1e-6, "layer_norm", True, False, "gelu"),
    audio=AudioConfig(80, 64, 4, 128, 1, dynamic_chunks=False),
)
MEASURE = """
import pathlib, re, sys, torch, vita
model = vita.load(sys.argv[1], device="cpu", dtype="bfloat16")
for color in (40, 200):
    picture = torch.full((448, 448, 3), color).byte().numpy()
    model.ask("Describe this images.", images=[picture], params=vita.SamplingParams(max_tokens=8, ignore_eos=True))
# Not getrusage: a child's begins with what its parent had.
print(int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="SKIPPED LOUDLY: weights are given back on Linux only")
@pytest.mark.slow
@pytest.mark.parametrize("quantize", [None, "int4"])
def test_predicted_memory_is_what_a_process_takes(tmp_path: Path, quantize: Quantize | None) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("NO BFLOAT16: products on this processor widen weights, whose memory is not predicted")
    write_configs(tmp_path, MIDDLE, quantize)
    write_tokenizer(tmp_path, None)
    write_weights(tmp_path, MIDDLE, quantize)
    facts = collect(str(tmp_path), EngineOptions(device="cpu", dtype="bfloat16", offline=True), 512)
    predicted = sum(facts["memory"].values())
    made = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    assert predicted == pytest.approx(int(made.stdout), rel=0.1), facts["memory"]
