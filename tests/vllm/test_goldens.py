"""vLLM's prompt and greedy ids equal the reference implementation's, on the committed set and on the big one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vllm.golden import GoldenCase, golden_cases
from tests.vllm.running import Answered, Step, as_openai, ask_vllm
from tests.vllm.widened import widen

MINI = Path(__file__).parents[1] / "goldens" / "mini"
CASES = [case.name for case in golden_cases(MINI)]


def answers(root: Path, work: Path, **options: object) -> list[tuple[GoldenCase, Answered, str]]:
    """Each case of a set, what vLLM answered, and the folder of the checkpoint."""
    (vision,) = root.glob("InternViT-*")
    (checkpoint,) = root.glob("*_ckpt")
    folder, overrides = widen(checkpoint, vision, work)
    found = golden_cases(root)
    steps = [
        Step([as_openai(case.messages)], tokens=len(case.ids), mm_processor_kwargs={"reference": True})
        for case in found
    ]
    got = ask_vllm(folder, work / "job", steps, hf_overrides=overrides, **options)
    return [(case, one, str(folder)) for case, (one,) in zip(found, got, strict=True)]


@pytest.fixture(scope="module")
def mini_answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[GoldenCase, Answered, str]]:
    return {case.name: (case, *rest) for case, *rest in answers(MINI, tmp_path_factory.mktemp("mini"))}


@pytest.mark.parametrize("name", CASES)
def test_the_committed_set(mini_answers: dict[str, tuple[GoldenCase, Answered, str]], name: str) -> None:
    case, answered, folder = mini_answers[name]
    assert answered.prompt == case.prompt(folder)
    assert answered.ids == case.ids


def test_the_big_set(big_goldens: Path, tmp_path: Path) -> None:
    for case, answered, folder in answers(big_goldens / "tiny", tmp_path):
        assert answered.prompt == case.prompt(folder), case.name
        assert answered.ids == case.ids, case.name


# vLLM 0.32 prepares the ranks of a pipeline in its warm-up, which a CPU leaves out where nothing is compiled.
TRACED = {"mode": "STOCK_TORCH_COMPILE", "backend": "eager"}
PIPELINE = {"pipeline_parallel_size": 2, "enforce_eager": False, "compilation_config": TRACED}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [{"tensor_parallel_size": 2}, PIPELINE], ids=["TP", "PP"])
def test_two_ranks(tmp_path: Path, ranks: dict[str, int]) -> None:
    for case, answered, _ in answers(MINI, tmp_path, processes=True, distributed_executor_backend="mp", **ranks):
        assert answered.ids == case.ids, case.name
