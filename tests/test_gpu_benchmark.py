"""benchmarks/gpu.py can be rehearsed without a GPU: every stage runs or says why not, and one that fails ends none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu_stages import STAGES
from benchmarks.gpu_wheels import PACKAGES, command

ROOT = Path(__file__).parents[1]
MINI = ROOT / "tests" / "goldens" / "mini"
NEEDS_CUDA = {"check", "tune"}


def rehearse(image: Path, *options: str, cwd: Path) -> tuple[int, dict[str, Any], str]:
    """Exit code, results from the last line, and everything printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    arguments = [str(MINI / "mini_ckpt"), "--device", "cpu", "--image", str(image), "--tokens", "4", "--images", "3"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *arguments, *options],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


@pytest.mark.slow
def test_every_stage_runs_or_is_skipped_and_the_results_are_kept(tmp_path: Path) -> None:
    only = ",".join(name for name in STAGES if name not in ("peaks", "verify"))  # those are tested elsewhere
    code, results, shown = rehearse(
        MINI / "inputs" / "heldA.png", "--only", only, "--json", str(tmp_path / "gpu.json"), cwd=tmp_path
    )
    assert code == 0, shown
    assert json.loads((tmp_path / "gpu.json").read_text()) == results
    assert list(results) == ["machine", *only.split(",")]
    for name in NEEDS_CUDA:
        assert results[name]["status"] == "skipped: it needs CUDA"
    for scheme in ("plain", "int4", "int8"):
        entry = results[scheme]
        assert entry["status"] == "ok" and entry["seconds"] > 0
        assert {"load s", "first_token s", "tokens/s", "second question, first_token s", "images/s"} <= set(
            entry["figures"]
        )
    assert results["peer"]["status"] == "ok" or results["peer"]["status"].startswith("skipped: transformers")


@pytest.mark.slow
def test_a_stage_that_fails_or_has_no_time_does_not_end_the_others(tmp_path: Path) -> None:
    code, results, shown = rehearse(tmp_path / "missing.png", "--only", "memory,int4,peer", cwd=tmp_path)
    assert code == 1 and results["memory"]["status"] == "ok"
    assert results["int4"]["status"].startswith("failed: ") and "missing.png" in results["int4"]["status"]
    assert "peer" in results and "Traceback" in shown
    code, results, _ = rehearse(tmp_path / "missing.png", "--only", "memory,int4", "--seconds", "1", cwd=tmp_path)
    assert (
        code == 0 and results["int4"]["status"].startswith("skipped: ") and "it needs 30" in results["int4"]["status"]
    )


WRAPPER = """
import os, sys, time
sys.path.insert(0, {root!r})
from benchmarks import gpu, gpu_stages

def raises(context):
    yield "before", 1.0
    raise SystemError("of a library")

def ends(context):
    os._exit(139)  # as a fault in a driver does

def hangs(context):
    yield "before", 1.0
    time.sleep(600)

for name, run in (("peaks", raises), ("verify", ends), ("memory", hangs), ("tune", ends)):
    gpu_stages.STAGES[name] = gpu_stages.Stage(run, -1000)
gpu_stages.STAGES["check"] = gpu_stages.Stage(lambda context: iter([("figure", 2.0)]), -1000)
sys.exit(gpu.main())
"""


@pytest.mark.slow  # a stage hangs until its time is over
def test_a_stage_that_raises_ends_its_process_or_hangs_does_not_end_the_others(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper.py"
    wrapper.write_text(WRAPPER.format(root=str(ROOT)))
    arguments = ["x", "--device", "cpu", "--image", "y", "--only", "peaks,verify,check,memory,tune", "--seconds", "15"]
    done = subprocess.run(
        [sys.executable, str(wrapper), *arguments, "--json", str(tmp_path / "gpu.json")],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    results = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1 and list(results) == ["machine", "peaks", "verify", "check", "memory", "tune"]
    assert results["peaks"]["status"] == "failed: SystemError: of a library" and results["peaks"]["figures"]["before"]
    assert results["verify"]["status"] == "failed: its process ended"
    assert results["check"]["status"] == "ok" and results["check"]["figures"] == {"figure": 2.0}
    assert results["memory"]["status"].startswith("failed: ")
    assert results["tune"]["status"].startswith(("failed: ", "skipped: "))
    assert json.loads((tmp_path / "gpu.json").read_text()) == results


@pytest.mark.slow
def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "x", "--image", "y", "--only", "chekc"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "unknown stage 'chekc'" in done.stderr


@pytest.mark.parametrize("package", ["av", "humming-kernels", "cuda-bindings"])
def test_the_wheels_are_those_of_the_other_machine(package: str, tmp_path: Path) -> None:
    call = command(tmp_path, "3.12")
    assert package in PACKAGES and package in call
    assert {"--no-deps", "--only-binary=:all:", "--python-version=3.12"} <= set(call)
