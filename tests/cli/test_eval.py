"""`vita eval`: what it says before it starts, tables as they are ready, Ctrl-C, and what a wheel must bring."""

from __future__ import annotations

import ast
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from recipes.nano.progress import SECONDS, Progress
from tests.cli.commands import ENV, MINI, ROOT, assert_sentence, run

from vita.cli import evaluate
from vita.cli.evaluate import arguments

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="SKIPPED LOUDLY: Python 3.10 reads no TOML")

KINDS = ("images", "wide images", "images asked about freely", "audio clips", "videos")
NUMBERS = re.compile("draws and asks about " + ", ".join(rf"(\d+) {kind}" for kind in KINDS))


def test_it_is_for_the_embedded_model() -> None:
    assert_sentence(run("eval", MINI), "vita eval measures what the embedded model was trained on")
    assert_sentence(run("eval", "--images", "5"), "'--images': 5 is less than 10. See 'vita eval --help'.")
    assert_sentence(run("eval", "--pictures", "5"), "5 is less than 10")


def test_without_the_recipe_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluate, "HOMES", (tmp_path,))
    assert_sentence(run("eval"), "the recipe that draws the data is not installed; install the package again")


@pytest.mark.parametrize("images", [10, 60, 420, 840])
def test_fewer_images_are_fewer_of_everything(images: int) -> None:
    line = arguments(Path("folder"), images, Path("out"), "int8")
    count = {
        flag: int(line[line.index(flag) + 1]) for flag in ("--pictures", "--wide", "--spoken", "--sounds", "--clips")
    }
    full = {"--pictures": 420, "--wide": 60, "--spoken": 70, "--sounds": 100, "--clips": 60}
    assert all(abs(count[f] - full[f] * images / 420) < 1 and count[f] >= 1 for f in full)
    assert line[-2:] == ["--quantize", "int8"] and Path(line[0]).is_absolute()


@pytest.mark.slow
def test_ctrl_c_is_quiet_and_needs_are_said_first(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vita", "eval", "--images", "50", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, cwd=tmp_path)
    try:
        assert process.stderr is not None
        first, second = process.stderr.readline().decode(), process.stderr.readline().decode()
        process.send_signal(signal.SIGINT)
        said, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said, error) == (130, b"", b"")
    found = NUMBERS.search(first)
    assert found is not None and [int(n) for n in found.groups()][:3] == [50, 7, 7] and "on one quiet core" in first
    assert "needs fonts of 40 families or more" in second


@pytest.mark.slow
def test_tables_are_printed_as_they_are_ready_and_an_interrupted_run_is_kept(tmp_path: Path) -> None:
    """`--pictures` is the old name of `--images`."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vita", "eval", "--pictures", "40", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, cwd=tmp_path)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if b"held-out pictures: 30 of 40" in line:
                break
        process.send_signal(signal.SIGINT)
        said, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, error) == (130, b"")
    assert "### Held-out pictures (the first 30 of 40)" in said.decode() and "| background |" in said.decode()
    assert json.loads((out / "eval.json").read_text())["parts"]["mix"]["samples"] == [30, 40]
    assert "(the first 30 of 40)" in (out / "eval.md").read_text()


@pytest.mark.slow
def test_a_short_run_measures_everything(tmp_path: Path) -> None:
    done = run("eval", "--images", "10", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    titles = re.findall(r"^### (.*)$", done.stdout.decode(), re.MULTILINE)
    parts = json.loads((tmp_path / "eval.json").read_text())["parts"]
    assert len(titles) == len(parts) >= 3 and titles[0] == "Held-out pictures" and titles[-1] == "Held-out clips"
    assert all(part["samples"][0] == part["samples"][1] for part in parts.values())


def test_the_time_left_follows_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0])
    monkeypatch.setattr("recipes.nano.progress.time.monotonic", lambda: next(clock))
    progress = Progress({"mix": 100, "clips": 50})
    whole, half = 100 * SECONDS["mix"] + 50 * SECONDS["clips"], 50 * SECONDS["mix"]
    assert progress.left("mix", 50) == pytest.approx(100.0 * (whole - half) / half)
    monkeypatch.setattr("recipes.nano.progress.time.monotonic", lambda: 200.0)
    assert progress.left("clips", 50) == 0.0


@pytest.mark.slow
def test_the_wheel_brings_what_the_evaluation_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert all((ROOT / source).exists() and target == f"vita/_recipe/{source}" for source, target in included.items())
    brought = {f for source in included for f in [ROOT / source, *(ROOT / source).rglob("*")] if f.is_file()}
    wanted, seen = [ROOT / "recipes" / "nano" / "evaluate.py"], set[Path]()
    while wanted:
        file = wanted.pop()
        if file in seen:
            continue
        seen.add(file)
        assert file in brought, f"{file.relative_to(ROOT)} is imported and not in the wheel"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recipes"):
                base = ROOT / str(node.module).replace(".", "/")
                names = [base.with_suffix(".py"), base / "__init__.py", *(base / f"{a.name}.py" for a in node.names)]
                wanted += [name for name in names if name.is_file()]
    assert len(seen) > 30
