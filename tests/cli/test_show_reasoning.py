"""`vita ask` prints the answer; the reasoning only where it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.commands import run
from tests.reasoning import scripted


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(scripted(tmp_path_factory.mktemp("scripted")))


def test_stdout_holds_the_answer_alone(checkpoint: str) -> None:
    done = run("ask", "Is it blue?", "--model", checkpoint)
    assert done.returncode == 0 and done.stdout == b"Yes, blue.\n", done
    assert b"red star" not in done.stderr


@pytest.mark.parametrize("flags", [(), ("--no-stream",)])
def test_the_reasoning_is_shown_on_stderr(checkpoint: str, flags: tuple[str, ...]) -> None:
    done = run("ask", "Is it blue?", "--model", checkpoint, "--show-reasoning", *flags)
    assert done.stdout == b"Yes, blue.\n" and done.stderr == b"a red star\n", "no colours where no terminal is"


def test_json_carries_it(checkpoint: str) -> None:
    answer = json.loads(run("ask", "Is it blue?", "--model", checkpoint, "--json", "--logprobs", "1").stdout)
    assert (answer["text"], answer["reasoning"], answer["state"]) == ("Yes, blue.", "a red star", "typed")
    assert answer["usage"]["reasoning_tokens"] == 5 and answer["usage"]["completion_tokens"] == 11
    assert [token["text"] for token in answer["logprobs"]] == ["☜", "Yes", ",", " blue", ".", "<|im_end|>"]


def test_max_tokens_count_the_answer(checkpoint: str) -> None:
    answer = json.loads(run("ask", "Is it blue?", "--model", checkpoint, "--json", "--max-tokens", "3").stdout)
    assert (answer["text"], answer["reasoning"], answer["finish_reason"]) == ("Yes,", "a red star", "length")


def test_a_reasoning_without_end_is_ended(tmp_path: Path) -> None:
    checkpoint = str(scripted(tmp_path, endless=True))
    answer = json.loads(run("ask", "Is it blue?", "--model", checkpoint, "--json").stdout)
    assert answer["text"] == "Yes, blue." and answer["reasoning"].startswith("a red star star")
    assert answer["usage"]["reasoning_tokens"] == 256 + 2
