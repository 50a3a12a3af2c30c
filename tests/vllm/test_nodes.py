"""Greedy ids on several ranks and several nodes: the `vllm serve` commands of docs/scaling.md, all on this machine."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import vita
from tests.checkpoints import VISION
from tests.docs.blocks import blocks
from tests.vllm.cases import cases
from tests.vllm.golden import golden_cases
from tests.vllm.running import as_openai, ask_engine
from tests.vllm.serving import LOOPBACK, free_port, serving
from tests.vllm.test_goldens import TRACED
from tests.vllm.widened import widen
from vita.checkpoint.files import DEFAULT

ROOT = Path(__file__).parents[2]
MINI = ROOT / "tests" / "goldens" / "mini"
COMMANDS = "".join(block.text for block in blocks(ROOT / "docs" / "scaling.md") if not block.language)
PIPELINE = ("--no-enforce-eager", "--compilation-config", json.dumps(TRACED))


def documented() -> dict[str, list[list[str]]]:
    """The options of `vllm serve` on each node, by the comment above the commands."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in COMMANDS.replace("\\\n", "").splitlines():
        if line.startswith("# "):
            title = line.removeprefix("# ")
        elif line.startswith("vllm serve "):
            found.setdefault(title, []).append(shlex.split(line, comments=True)[3:])
    return found


def here(options: list[str], port: int) -> list[str]:
    """The same options for this machine: two data parallel ranks in place of many, on loopback."""
    out = [LOOPBACK if option == "$HEAD" else option for option in options]
    fewer = max(1, size(options, "--data-parallel-size") // 2)
    for number, option in enumerate(options):
        if option in ("--data-parallel-size", "--data-parallel-size-local", "--data-parallel-start-rank"):
            out[number + 1] = str(int(options[number + 1]) // fewer)
        if option in ("--data-parallel-rpc-port", "--master-port"):
            out[number + 1] = str(port)
    return out + list(PIPELINE if "--pipeline-parallel-size" in options else ())


def size(options: list[str], name: str) -> int:
    """The value of an option such as `--data-parallel-size`, or 1."""
    return int(options[options.index(name) + 1]) if name in options else 1


GROUPS = {title: nodes for title, nodes in documented().items() if "parallel-size" in str(nodes)}


@dataclass(frozen=True)
class Case:
    """A request, and the ids that answer it."""

    name: str
    body: dict[str, Any]
    ids: tuple[int, ...]


def embedded_cases() -> list[Case]:
    """Of the embedded model, with the ids of this package's engine."""
    engine = vita.load(dtype="float32", device="cpu")
    return [
        Case(name, {"messages": as_openai(asked), "max_tokens": 24}, ask_engine(engine, asked))
        for name, asked in cases(MINI / "inputs").items()
    ]


def mini_cases() -> list[Case]:
    """Of the `mini` set, with the ids of the reference implementation."""
    return [
        Case(one.name, {"messages": as_openai(one.messages), "max_tokens": len(one.ids)}, one.ids)
        for one in golden_cases(MINI)
    ]


def answer(url: str, case: Case, rank: int) -> tuple[int, ...]:
    """Greedy ids of one data parallel rank."""
    body = {"model": "vita", "temperature": 0, "return_token_ids": True} | case.body
    header = {"X-data-parallel-rank": str(rank)}
    found = httpx.post(f"{url}/v1/chat/completions", json=body, headers=header, timeout=300)
    assert found.status_code == 200, found.text
    return tuple(found.json()["choices"][0]["token_ids"])


def answered(url: str) -> set[str]:
    """The engines, by number, that have answered a request."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    found = re.findall(r'^vllm:request_success_total\{engine="(\d+)".*\} (\S+)$', text, re.MULTILINE)
    return {engine for engine, count in found if float(count)}


@pytest.mark.slow
@pytest.mark.parametrize("title", GROUPS)
def test_every_rank_gives_the_same_ids(title: str, tmp_path: Path) -> None:
    """The embedded model in all modalities; where ranks share a model, the `mini` set, whose heads can be divided."""
    port = free_port()
    nodes = [here(options, port) for options in GROUPS[title]]
    folder = DEFAULT
    found = embedded_cases
    if "--tensor-parallel-size" in nodes[0] or "--pipeline-parallel-size" in nodes[0]:
        folder, overrides = widen(MINI / "mini_ckpt", MINI / VISION, tmp_path)
        found = mini_cases
        for options in nodes:
            options += ["--hf-overrides", json.dumps(overrides), "--mm-processor-kwargs", '{"reference": true}']
    ranks = size(nodes[0], "--data-parallel-size")
    expected = found()
    with serving(folder, tmp_path, *nodes) as url:
        for rank in range(ranks):
            for case in expected:
                assert answer(url, case, rank) == case.ids, (case.name, rank)
        assert answered(url) == {str(rank) for rank in range(ranks)}


def test_the_page_has_commands_for_several_gpus_and_nodes() -> None:
    assert len(GROUPS) >= 4 and sum(len(nodes) == 2 for nodes in GROUPS.values()) >= 2, GROUPS
