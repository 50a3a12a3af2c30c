"""The scripts in examples/ run as a stranger runs them; mypy --strict accepts them and refuses wrong calls."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tests.cli.commands import ENV, ROOT
from tests.forks import Forks

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAYS = {
    "one_image": ["It says 'VITA'.", "320 image tokens, "],
    "several_images": ["VITA", "2 images"],
    "video_clip": ["The red star moves to the right.", "The red star moves to the right. (9 frames)"],
    "spoken_question": ["I can describe simple pictures", "True"],
    "conversation": ["It says 'VITA'.", "The text is white.", " prompt tokens were in the cache"],
    "streaming_answer": ["The red star moves to the right.", "stop after "],
    "async_requests": ["It says 'VITA'.", "I can describe", "The red star moves to the right."],
    "batch_of_requests": [
        "It says 'VITA'.", "The red star moves to the right.", "I can describe",
        "error: assets/missing.png: no such file; check the path.", "3 answers",
    ],
}  # fmt: skip

QUICK = ("one_image",)  # the others run with --slow


def test_every_example_is_known_and_short() -> None:
    assert {example.stem for example in EXAMPLES} == set(SAYS)
    for example in EXAMPLES:
        text = example.read_text(encoding="utf-8")
        assert text.count("\n") < 40 and text.startswith('"""') and "assets/" in text


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SAYS])
def test_an_example_runs(forks: Forks, name: str) -> None:
    done = forks.run([sys.executable, f"examples/{name}.py"], cwd=ROOT, env=ENV, capture_output=True, timeout=170)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(SAYS[name]), lines
    for line, said in zip(lines, SAYS[name], strict=True):
        assert said in line


@pytest.mark.slow
def test_types_of_right_calls_pass_and_every_wrong_call_is_reported() -> None:
    calls = ["tests/api/right_calls.py", "tests/api/wrong_calls.py"]
    command = [sys.executable, "-m", "mypy", "--strict", *calls, *(str(e.relative_to(ROOT)) for e in EXAMPLES)]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=600, check=False)
    reported = {(file, int(line)) for file, line in re.findall(r"^(.+?):(\d+): error:", done.stdout, re.MULTILINE)}
    wrong = (ROOT / calls[1]).read_text(encoding="utf-8").splitlines()
    marked = {(calls[1], number) for number, line in enumerate(wrong, start=1) if line.endswith("# wrong")}
    assert len(marked) > 40
    assert reported == marked, done.stdout + done.stderr
