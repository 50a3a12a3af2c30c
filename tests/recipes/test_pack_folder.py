"""What travels to a machine that only trains: enough, small, and nothing that is not there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from recipes.nano.pack_folder import BEGIN, copy_code, files_of, modules, pack_folder
from recipes.nano.speech.voices_here import engine_here

ROOT = Path(__file__).parents[2]
THERE = {"torch", "numpy", "PIL", "safetensors", "tokenizers", "vita", "recipes"}
# What a module-level import would need and that machine lacks.
BLOCK = """
import sys
from importlib.abc import MetaPathFinder
ABSENT = {"soxr", "av", "soundfile", "yaml", "huggingface_hub", "psutil", "typer", "rich", "prompt_toolkit",
          "sentencex", "num2words", "markdown_it", "emoji", "anyascii", "wetext", "fontTools", "pynvml"}
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"{name} is not on that machine")
sys.meta_path.insert(0, Absent())
"""


def imported_at_import(file: Path) -> list[str]:
    """Modules that a file imports when it is imported, not in a function."""
    found: list[str] = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


@pytest.mark.slow
def test_training_imports_nothing_that_is_not_there() -> None:
    packed = modules(BEGIN)
    assert len(packed) > 80 and ROOT / "recipes" / "nano" / "train.py" in packed
    wanted, seen = list(BEGIN), set[str]()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        assert name.partition(".")[0] in THERE | set(sys.stdlib_module_names), name
        for file in files_of(name):
            assert file in packed
            wanted += imported_at_import(file)
    assert {"vita.model.decoder", "recipes.nano.speech.room"} <= seen


def test_the_code_is_laid_out_as_in_the_repository(tmp_path: Path) -> None:
    copy_code(tmp_path)
    assert (tmp_path / "recipes" / "nano" / "data" / "words.txt").exists()
    assert (tmp_path / "src" / "vita" / "__init__.py").exists() and not list(tmp_path.rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in tmp_path.rglob("*")) < 4e6


@pytest.mark.slow
def test_the_folder_trains_and_evaluates_where_nothing_else_is_installed(tmp_path: Path) -> None:
    if find_spec("fontTools") is None or not engine_here():
        pytest.skip("SKIPPED LOUDLY: fontTools or eSpeak NG is not installed (pip install '.[pack,espeak]')")
    pack_folder(tmp_path / "folder", None, 8.0)
    assert sum(f.stat().st_size for f in (tmp_path / "folder").iterdir()) < 8e6
    with tarfile.open(tmp_path / "folder" / "nano.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    home = tmp_path / "nano"
    (home / "src" / "sitecustomize.py").write_text(BLOCK, encoding="utf-8")
    there = {"PYTHONPATH": f"{home / 'src'}:{home}", "VITA_RECIPE_FONTS": str(home / "fonts")}
    command = [sys.executable, "-m", "recipes.nano.train", "--tiny", "--device", "cpu", "--out", str(tmp_path / "run"),
               "--steps", "2", "--trial", "0", "--workers", "1", "--minutes", "3", "--evaluation", "20"]  # fmt: skip
    done = subprocess.run(
        command, cwd=home, env={**os.environ, **there}, capture_output=True, text=True, check=False, timeout=175
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "eval.json").exists() and "Held-out pictures" in done.stdout
