"""Drawing is the same as it ever was, by number; no module imports itself in a circle."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from recipes.nano.data import Sample, render_sample
from recipes.nano.data.clips import render_clip
from recipes.nano.data.labels import STAGES
from recipes.nano.data.studio import studio
from recipes.nano.speech.texts import backchannel, not_for_the_model, question, sentence_to_repeat
from recipes.nano.tokenizer import build_tokenizer

ROOT = Path(__file__).parents[2]
# Taken before recipes/ became recipes/nano/, with the fonts of recipes/nano/data/fonts.txt.
FONTS = "cd2c09e4c2afe658"
SAMPLES = [
    "eeb4694a61fcfc83",
    "4efe206ce60a09d3",
    "27b2c13685f2d31f",
    "c1e6456f4c174395",
    "6ca8e19bb61b6106",
    "ca6175346f7adaad",
    "bdf9305912aef645",
    "00073738ed2d0fc9",
    "9eb98d3edc79904d",
    "34c349f3c0140f45",
    "f4eeb44c1952dc96",
    "423900e528a19432",
    "5edcbf1b29e7f33e",
    "1bc4676f9918a70e",
    "b60cc16c3faebf1e",
    "7234655e3a86042b",
    "dc286587ef202f83",
    "19aeda18f519a8f0",
    "6352a7f835d7c8f4",
    "70ac8b46303db490",
]
CLIPS = ["3095817a81096fd7", "e318ef6da468096b"]
TEXTS, TOKENIZER = "289fdf77a28f3b39", "ae1b4c8afe299d11"


def short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def of_sample(sample: Sample) -> str:
    parts = [] if sample.picture is None else [repr(sample.picture.shape).encode(), sample.picture.tobytes()]
    parts += [p.tobytes() for p in (sample.chars, sample.shape, sample.color, sample.order) if p is not None]
    asked = [tuple(map(str, (q.question, q.answer, q.kind, q.key, q.after and q.after.question))) for q in sample.qa]
    return short(b"".join(parts) + repr(asked).encode())


@pytest.fixture(scope="module")
def same_fonts() -> None:
    families = studio().letters.book.families
    if short(repr(families).encode()) != FONTS:
        pytest.skip(f"SKIPPED LOUDLY: {len(families)} font families are not those that the samples were drawn with")


@pytest.mark.usefixtures("same_fonts")
def test_samples_are_drawn_as_before_the_move() -> None:
    stages = (*STAGES, "drill")
    drawn = [
        of_sample(render_sample(i, ("train", "heldout")[i % 2], stages[(i // 2) % 10], 11))  # type: ignore[arg-type]
        for i in range(20)
    ]
    assert drawn == SAMPLES
    clips = [render_clip(i, ("train", "heldout")[i], 11) for i in range(2)]  # type: ignore[arg-type]
    asked = [repr([(q.question, q.answer, q.kind, q.key) for q in clip.qa]).encode() for clip in clips]
    assert [short(clip.frames.tobytes() + text) for clip, text in zip(clips, asked, strict=True)] == CLIPS


def test_spoken_texts_and_the_vocabulary_are_as_before_the_move(tmp_path: Path) -> None:
    rng = Random(5)
    said = [
        (question(rng, "train"), sentence_to_repeat(rng), not_for_the_model(rng, "heldout"), backchannel(rng, "train"))
        for _ in range(50)
    ]
    assert short(repr(said).encode()) == TEXTS
    build_tokenizer(tmp_path)
    assert short((tmp_path / "tokenizer.json").read_bytes()) == TOKENIZER


def imports() -> dict[str, set[str]]:
    """Which modules of the recipe each of them imports, wherever in the file."""
    files = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f
             for f in (ROOT / "recipes").rglob("*.py")}  # fmt: skip
    found: dict[str, set[str]] = {}
    for name, file in files.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found[name].add(whole if whole in files else node.module)
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
        found[name] = {other for other in found[name] if other in files and other != name}
    return found


def test_no_module_of_the_recipe_imports_itself_in_a_circle() -> None:
    graph = imports()
    assert len(graph) > 60
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " imports ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_engine_does_not_import_training() -> None:
    code = "import sys, vita; vita.load; print([m for m in sys.modules if m.startswith('vita.train')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
