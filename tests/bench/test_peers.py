"""Comparisons with other engines: rounds, disturbed runs, the table, and the files for llama.cpp."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.random_gguf import Format, has_more_bits, random_blocks, write_gguf
from benchmarks.rounds import Figures, mark_disturbed, table

from vita.config import DecoderConfig

ROOT = Path(__file__).parents[2]
PICTURE = str(ROOT / "assets" / "vita_logo.png")


def run(step: float, read: float = 40.0, others: float = 0.0) -> Figures:
    return {
        "vision": 1.0, "prefill": 2.0, "step": step, "whole": 3 + 255 * step, "peak_gb": 4.8, "read": read,
        "others": others,
    }  # fmt: skip


def test_a_round_beside_other_work_or_slow_memory_is_marked() -> None:
    runs = {"vita": [run(0.1), run(0.2, others=0.5), run(0.1, read=30.0)], "llama": [run(0.1)] * 3}
    marked = mark_disturbed(runs)
    assert [r["disturbed"] for r in marked["vita"]] == [0, 1, 1]
    assert not any(r["disturbed"] for r in marked["llama"])


def test_the_table_shows_median_minimum_and_maximum_and_the_marks() -> None:
    shown = table(mark_disturbed({"vita": [run(0.1), run(0.4, others=0.5), run(0.2)]}), 256)
    every, quiet = shown.splitlines()[-2:]
    assert "| 0.200 s (0.100 to 0.400) |" in every and "| 40, 40*, 40 GB/s | 0.0, 0.5*, 0.0 |" in every
    assert quiet.startswith("| vita, 2 undisturbed |") and "| 0.150 s (0.100 to 0.200) |" in quiet
    assert "256 tokens in all" in shown


def peers(*arguments: str, checkpoint: Path = Path("src/vita/default")) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/peers.py", str(checkpoint), "--picture", PICTURE, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rounds", "2", "--peers", "vita"), "a median needs 3 or more"),
        (("--peers", "vita-int4"), "--int4 is needed"),
    ],
)
def test_too_few_rounds_and_a_missing_folder_are_said(arguments: tuple[str, ...], said: str) -> None:
    done = peers(*arguments)
    assert done.returncode == 2 and said in done.stderr


def test_help_names_the_tokenizer_and_the_length_of_the_request() -> None:
    shown = peers("--help").stdout
    assert "Qwen/Qwen2.5-7B-Instruct" in shown and "1,435 positions" in shown


@pytest.mark.slow
def test_it_runs_in_turns_and_says_who_cannot() -> None:
    done = peers("--positions", "340", "--tokens", "4", "--peers", "vita", "llama-q4_0")
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout.splitlines()[-1])
    assert len(runs["vita"]) == 3 and all(r["step"] > 0 and r["read"] > 0 for r in runs["vita"])
    assert "llama-q4_0" in runs or "llama-q4_0 cannot run here" in done.stderr


LLAMA_CPP = """
# llama-cpp-python as far as peers.py uses it; what it is asked for is appended to the file ASKED.
import json, os
def ask(**call):
    with open(os.environ["ASKED"], "a") as out:
        print(json.dumps(call), file=out)
class Llama:
    def __init__(self, model_path, **options):
        ask(model=model_path, **options)
        self.size, self.held = options["n_ctx"], 0
    def reset(self):
        self.held = 0
        ask(reset=True)
    def eval(self, tokens):
        self.held += len(tokens)
        assert self.held <= self.size, "the context is too short"
        ask(tokens=tokens)
"""


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for llama-cpp-python, and GGUFs that need not be written; returns the checkpoint."""
    (tmp_path / "llama_cpp.py").write_text(LLAMA_CPP, encoding="utf-8")
    checkpoint = tmp_path / "weights"
    checkpoint.symlink_to(ROOT / "src" / "vita" / "default")
    for form in ("q4_0", "q4_k_m"):
        (tmp_path / f"weights.{form}.gguf").touch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    return checkpoint


@pytest.mark.parametrize("form", ["q4_0", "q4_k_m"])
@pytest.mark.slow
def test_llama_cpp_runs_at_its_best_settings_and_warms_up(form: str, llama: Path, tmp_path: Path) -> None:
    done = peers(
        "--positions", "300", "--tokens", "5", "--peers", f"llama-{form}", "--one", f"llama-{form}", checkpoint=llama
    )
    assert done.returncode == 0, done.stderr
    opened, *calls = [json.loads(line) for line in (tmp_path / "asked").read_text(encoding="utf-8").splitlines()]
    threads = len(os.sched_getaffinity(0))
    assert opened == {
        "model": str(tmp_path / f"weights.{form}.gguf"), "n_ctx": 306, "n_batch": 306, "n_ubatch": 512,
        "n_threads": threads, "n_threads_batch": threads, "flash_attn": True, "use_mmap": False, "verbose": False,
    }  # fmt: skip
    counts = [len(call.get("tokens", [])) for call in calls]
    assert counts == [0, 300, 1, 0, 300, 1, 1, 1, 1], "a whole request that is not timed, then the timed one"
    figures = json.loads(done.stdout)
    assert figures["vision"] == 0 and figures["step"] > 0 and figures["peak_gb"] > 0
    assert figures["whole"] == pytest.approx(figures["prefill"] + 255 * figures["step"])


@pytest.mark.slow
def test_rounds_of_llama_cpp_are_in_turns(llama: Path) -> None:
    done = peers(
        "--positions", "300", "--tokens", "5", "--peers", "llama-q4_0", "llama-q4_k_m", checkpoint=llama
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    rounds = [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("round ")]
    assert rounds == [f"round {k} llama-{form}" for k in (1, 2, 3) for form in ("q4_0", "q4_k_m")]
    assert {name: len(runs) for name, runs in json.loads(done.stdout.splitlines()[-1]).items()} == {
        "llama-q4_0": 3, "llama-q4_k_m": 3,
    }  # fmt: skip


def test_q4_k_m_has_more_bits_where_llama_cpp_has_them() -> None:
    assert [k for k in range(28) if has_more_bits(k, 28)] == [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K", "Q6_K"])
def test_random_blocks_are_small_finite_weights(kind: str) -> None:
    gguf = pytest.importorskip("gguf", reason="SKIPPED LOUDLY: gguf is not installed")
    kinds = gguf.GGMLQuantizationType[kind]
    weights = gguf.quants.dequantize(random_blocks(np.random.default_rng(0), 4, 512, kinds), kinds)
    assert weights.shape == (4, 512) and np.isfinite(weights).all() and 0 < np.abs(weights).max() < 1


@pytest.mark.parametrize(("form", "kind"), [("q4_0", "Q4_0"), ("q4_k_m", "Q6_K")])
def test_a_gguf_has_the_decoders_tensors(tmp_path: Path, form: Format, kind: str) -> None:
    gguf = pytest.importorskip("gguf", reason="SKIPPED LOUDLY: gguf is not installed")
    write_gguf(DecoderConfig(512, 768, 8, 4, 2, 600), tmp_path / "a.gguf", form)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert list(tensors["blk.7.attn_v.weight"].shape) == [512, 256]  # GGUF names the width first
    assert tensors["blk.7.ffn_down.weight"].tensor_type.name == kind
    assert {"token_embd.weight", "output.weight", "blk.0.attn_v.bias"} <= set(tensors)
