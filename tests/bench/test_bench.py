"""Counts of operations are those of the formulas, and the table says what was measured."""

from __future__ import annotations

import json
import mmap
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vita.bench.report import read_earlier, table
from vita.bench.run import Figure, Report, _with_pictures
from vita.config import AudioConfig, DecoderConfig, VisionConfig, VitaConfig
from vita.errors import RequestError
from vita.model.vita import VitaModel
from vita.planning.flops import audio_flops, prefill_flops, vision_flops, weight_bytes
from vita.runtime.memory import peak_memory, reset_peak

DECODER = DecoderConfig(64, 128, 3, 4, 2, 100)
VISION = VisionConfig(64, 256, 2, 4, 56, 14, 1e-6, "layer_norm", True, False, "gelu")
CONFIG = VitaConfig(DECODER, VISION, AudioConfig(dim=32, linear_units=64, num_layers=2))
MODEL = VitaModel.on_meta(CONFIG, 100)


def test_vision_is_counted_as_on_paper() -> None:
    width, tokens = 64, 17
    block = 2 * tokens * (4 * width**2 + 2 * width * 256) + 4 * tokens**2 * width
    patches = 2 * 16 * width * 3 * 14 * 14
    projector = 2 * 4 * (4 * width * 64 + 64 * 64)
    assert vision_flops(MODEL, 3) == 3 * (2 * block + patches + projector)


def test_prefill_is_counted_as_on_paper_and_in_pieces_it_is_the_same_work() -> None:
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128  # weights of products; biases and norms are small beside them
    for length in (1, 50):
        attention = 4 * 3 * 64 * length * (length + 1) / 2
        wanted = 2 * length * 3 * layer + attention + 2 * 100 * 64
        assert prefill_flops(MODEL, length) == pytest.approx(wanted, rel=0.01)
    head = 2 * 100 * 64
    whole = prefill_flops(MODEL, 50)
    assert prefill_flops(MODEL, 20) + prefill_flops(MODEL, 30, past=20) - head == pytest.approx(whole)


def test_longer_sounds_cost_more() -> None:
    assert 1.8 < audio_flops(MODEL, 800) / audio_flops(MODEL, 400) < 3


def test_a_step_reads_the_head_but_one_row_of_the_embedding() -> None:
    decoder = VitaModel.on_meta(CONFIG, 100).decoder
    everything = sum(p.numel() for p in decoder.parameters()) * 4
    assert weight_bytes(decoder) == everything - 100 * 64 * 4
    decoder.head.weight = decoder.embed.weight
    assert weight_bytes(decoder) == everything - 100 * 64 * 4, "a tied table is read as the head"


@pytest.fixture
def report() -> Report:
    top = {"read": 40.0, "matvec": 30.0, "gemm": 2.0}
    figures = [Figure("load, warm", 1.5), Figure("vision, 5 tiles", 2.0, 1.5, "TFLOP/s", 2.0, "1,280 tokens")]
    return Report("model", "cpu", "bfloat16", None, "a machine", 2, torch.__version__, top, figures, 3.25)


def test_the_table_shows_shares_and_ratios(report: Report) -> None:
    shown = "\n".join(table(report, {"vision, 5 tiles": 3.0}))
    assert "75 %" in shown and "1.50x" in shown and "peak memory 3.25 GB" in shown
    assert "█" * 15 in shown and "█" * 16 not in shown
    assert "x" not in "\n".join(table(replace(report, model="m"), {})).partition("stage")[2].replace("matrix", "")


def test_an_earlier_run_is_read_from_its_last_line(report: Report, tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    file.write_text("\n".join([*table(report, {}), json.dumps(report.as_json())]) + "\n")
    assert read_earlier(file) == {"load, warm": 1.5, "vision, 5 tiles": 2.0}


def test_pictures_a_second_follow_from_what_was_measured() -> None:
    figures = [Figure("vision, 1 tile", 0.5), Figure("prefill, 1 tile", 1.5), Figure("batch 4", 0.25, what="one step")]
    assert "0.167 pictures/s" in _with_pictures(figures[2], figures).what  # 4 / (4 * 2 + 64 * 0.25)
    assert _with_pictures(figures[0], figures) == figures[0]


@pytest.mark.skipif(sys.platform != "linux", reason="SKIPPED LOUDLY: the high-water mark is reset on Linux alone")
def test_a_stage_counts_its_own_memory() -> None:
    cpu, large = torch.device("cpu"), 256 << 20

    def touched() -> mmap.mmap:  # pages of their own, which go back to the system at once
        pages = mmap.mmap(-1, large)
        for at in range(0, large, mmap.PAGESIZE):
            pages[at] = 1
        return pages

    touched().close()
    before = peak_memory(cpu)
    assert reset_peak(cpu) and (resting := peak_memory(cpu)) < before - large // 2
    touched().close()
    assert resting + large // 2 < peak_memory(cpu) < resting + 2 * large


@pytest.mark.parametrize("content", ["", "no report", '{"figures": [{}]}', "[1]", "\x00\xff"])
def test_another_file_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    file.write_text(content)
    with pytest.raises(RequestError, match="is no report of vita bench"):
        read_earlier(file)
    with pytest.raises(RequestError, match="cannot be read"):
        read_earlier(tmp_path / "nowhere.txt")
