"""The Python code of docs/scaling.md prints an answer, and its comparison of throughput runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import blocks
from tests.vllm.running import ENVIRONMENT, TIMEOUT

ROOT = Path(__file__).parents[2]
CODE = [block.text for block in blocks(ROOT / "docs" / "scaling.md") if block.language == "python"]


@pytest.mark.parametrize("code", CODE)
def test_the_code_runs(code: str, tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file)], cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True,
        timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "typed" in done.stdout and "VITA" in done.stdout, done.stdout


@pytest.mark.slow
def test_throughput_is_compared_with_equal_answers() -> None:
    """One short round each; what is measured is for a quiet machine."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.vllm_plugin", "--rounds", "1", "--tokens", "4", "--threads", "1", "--eager"],
        cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "threads: vita 1, vllm 1" in done.stdout
    for count in (1, 8, 16):
        assert f"{count} of {count}" in done.stdout, done.stdout
