"""FLOP counts follow the formulas; the table shows what was measured."""

from __future__ import annotations

import json
import mmap
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vita.bench.peaks import bandwidth
from vita.bench.report import read_earlier, table
from vita.bench.run import Figure, Report, _with_image_rate
from vita.config import AudioConfig, DecoderConfig, VisionConfig, VitaConfig
from vita.errors import RequestError
from vita.model.vita import VitaModel
from vita.planning.flops import audio_flops, prefill_flops, vision_flops, weight_bytes
from vita.runtime.memory import peak_memory, reset_peak

DECODER = DecoderConfig(64, 128, 3, 4, 2, 100)
VISION = VisionConfig(64, 256, 2, 4, 56, 14, 1e-6, "layer_norm", True, False, "gelu")
CONFIG = VitaConfig(DECODER, VISION, AudioConfig(dim=32, linear_units=64, num_layers=2))
MODEL = VitaModel.on_meta(CONFIG, 100)


def test_vision_flops_follow_the_formula() -> None:
    width, tokens = 64, 17
    block = 2 * tokens * (4 * width**2 + 2 * width * 256) + 4 * tokens**2 * width
    patches = 2 * 16 * width * 3 * 14 * 14
    projector = 2 * 4 * (4 * width * 64 + 64 * 64)
    assert vision_flops(MODEL, 3) == 3 * (2 * block + patches + projector)


def test_prefill_flops_follow_the_formula_and_add_up_in_pieces() -> None:
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128  # matmul weights; biases and norms are negligible
    for length in (1, 50):
        attention = 4 * 3 * 64 * length * (length + 1) / 2
        wanted = 2 * length * 3 * layer + attention + 2 * 100 * 64
        assert prefill_flops(MODEL, length) == pytest.approx(wanted, rel=0.01)
    head = 2 * 100 * 64
    at_once = prefill_flops(MODEL, 50)
    assert prefill_flops(MODEL, 20) + prefill_flops(MODEL, 30, past=20) - head == pytest.approx(at_once)


def test_longer_audio_takes_more_flops() -> None:
    assert 1.8 < audio_flops(MODEL, 800) / audio_flops(MODEL, 400) < 3


def test_a_decode_step_reads_the_head_but_one_row_of_the_embedding() -> None:
    decoder = VitaModel.on_meta(CONFIG, 100).decoder
    everything = sum(p.numel() for p in decoder.parameters()) * 4
    assert weight_bytes(decoder) == everything - 100 * 64 * 4
    decoder.head.weight = decoder.embed.weight
    assert weight_bytes(decoder) == everything - 100 * 64 * 4, "a tied embedding table is read as the head"


@pytest.fixture
def report() -> Report:
    peaks = {"read": 40.0, "matvec": 30.0, "gemm": 2.0}
    figures = [Figure("load, warm", 1.5), Figure("vision, 5 tiles", 2.0, 1.5, "TFLOP/s", 2.0, "1,280 tokens")]
    return Report("model", "cpu", "bfloat16", None, "a machine", 2, torch.__version__, peaks, figures, 3.25)


def test_the_table_shows_shares_and_ratios(report: Report) -> None:
    shown = "\n".join(table(report, {"vision, 5 tiles": 3.0}))
    assert "75 %" in shown and "1.50x" in shown and "peak memory 3.25 GB" in shown
    assert "█" * 15 in shown and "█" * 16 not in shown
    assert "x" not in "\n".join(table(replace(report, model="m"), {})).partition("stage")[2].replace("matrix", "")


def test_the_peak_of_a_gpu_is_its_fastest_kernel() -> None:
    """An H200 read 3,386 GB/s in a sum, 3,768 while decoding and 4,300 in a copy."""
    rates = {"sum": 3386.0, "matvec": 3768.0, "copy": 4300.0}
    assert bandwidth(rates, torch.device("cuda")) == 4300
    assert bandwidth(rates, torch.device("cpu")) == 3386


def test_what_is_faster_than_the_peak_is_said_to_be_a_bug(report: Report) -> None:
    fast = replace(report, device="cuda", figures=[Figure("decode", 1.0, 44.0, "GB/s", 40.0)])
    assert "a bug of vita bench, please report it: decode" in "\n".join(table(fast, {}))
    assert "a bug" not in "\n".join(table(replace(report, device="cuda"), {}))


def test_an_earlier_run_is_read_from_its_last_line(report: Report, tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    file.write_text("\n".join([*table(report, {}), json.dumps(report.as_json())]) + "\n")
    assert read_earlier(file) == {"load, warm": 1.5, "vision, 5 tiles": 2.0}


def test_images_per_second_follow_from_the_measured_stages() -> None:
    figures = [Figure("vision, 1 tile", 0.5), Figure("prefill, 1 tile", 1.5), Figure("batch 4", 0.25, what="one step")]
    assert "0.167 images/s" in _with_image_rate(figures[2], figures).what  # 4 / (4 * 2 + 64 * 0.25)
    assert _with_image_rate(figures[0], figures) == figures[0]


@pytest.mark.skipif(sys.platform != "linux", reason="SKIPPED LOUDLY: peak memory can be reset on Linux alone")
def test_peak_memory_is_measured_per_stage() -> None:
    cpu, large = torch.device("cpu"), 256 << 20

    def touched() -> mmap.mmap:  # an anonymous mapping, which goes back to the system at once
        pages = mmap.mmap(-1, large)
        for at in range(0, large, mmap.PAGESIZE):
            pages[at] = 1
        return pages

    touched().close()
    before = peak_memory(cpu)
    assert reset_peak(cpu) and (idle := peak_memory(cpu)) < before - large // 2
    touched().close()
    assert idle + large // 2 < peak_memory(cpu) < idle + 2 * large


@pytest.mark.parametrize("content", ["", "no report", '{"figures": [{}]}', "[1]", "\x00\xff"])
def test_a_file_that_is_not_a_report_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    file.write_text(content)
    with pytest.raises(RequestError, match="is not a report of vita bench"):
        read_earlier(file)
    with pytest.raises(RequestError, match="cannot be read"):
        read_earlier(tmp_path / "nowhere.txt")
