"""vLLM bounds a reasoning as the engine does, and reports it apart from the text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vita
from tests.reasoning import SCRIPT, scripted
from tests.vllm.running import Step, as_openai, ask_vllm
from tests.vllm.widened import widen
from vita.engine.reasoning import ReasoningState
from vita.prompt.tokenizer import ReasoningTokens, Tokenizer
from vita.types import SamplingParams

VISION = "InternViT-embedded-224px"
ARGUMENT, NAME = "max_reasoning_tokens", "vita.plugins.vllm.reasoning_limit:ReasoningLimit"  # as the docs name them
ASKED = [vita.user("Is it blue?")]
LIMITS: list[dict[str, Any]] = [{}, {ARGUMENT: 7}, {ARGUMENT: 0}]
TOKENS = ReasoningTokens(1, 2)


@pytest.mark.parametrize("endless", [False, True])
def test_answers_with_a_bound_equal_the_engines(tmp_path: Path, endless: bool) -> None:
    folder = scripted(tmp_path / "scripted", endless=endless)
    wide, overrides = widen(folder, folder / VISION, tmp_path)
    steps = [Step([as_openai(ASKED)], tokens=300, extra=extra) for extra in LIMITS]
    got = ask_vllm(wide, tmp_path / "job", steps, hf_overrides=overrides, logits_processors=[NAME])
    with vita.load(folder, dtype="float32", device="cpu") as model:
        for extra, (answered,) in zip(LIMITS, got, strict=True):
            # Of the engine, `max_tokens` counts the visible answer alone.
            params = SamplingParams(max_tokens=300, max_reasoning_tokens=extra.get(ARGUMENT, 256))
            assert answered.ids == model.submit(ASKED, params).result().token_ids[:300], extra


@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=40), st.none() | st.integers(0, 6)
)
def test_any_logits_give_the_tokens_that_the_engine_gives(steps: list[list[float]], limit: int | None) -> None:
    from vita.plugins.vllm.reasoning_limit import Limit  # imports vLLM

    ours, said = ReasoningState(TOKENS, limit), list[int]()
    bound = Limit(TOKENS, limit)
    for scores in map(torch.tensor, steps):
        token = ours.force(ours.mask(scores).argmax())
        ours.record(token)
        assert int(bound(said, scores.clone()).argmax()) == int(token)
        said.append(int(token))


@pytest.mark.parametrize("limit", [-1, 1.5, "3", True])
def test_a_limit_that_is_none_is_refused(limit: object) -> None:
    from vllm.exceptions import VLLMValidationError

    from vita.plugins.vllm.reasoning_limit import ReasoningLimit

    with pytest.raises(VLLMValidationError, match=ARGUMENT):
        ReasoningLimit.validate_params(SimpleNamespace(extra_args={ARGUMENT: limit}))  # type: ignore[arg-type]


def test_the_parser_takes_state_and_reasoning_off(tmp_path: Path) -> None:
    from vita.plugins.vllm.reasoning import ResponseStateParser
    from vita.plugins.vllm.tokenizer import VitaTokenizer

    folder = scripted(tmp_path)
    parser, ids = ResponseStateParser(VitaTokenizer.from_pretrained(folder)), Tokenizer.load(folder)
    said = [ids.token_id(piece.replace(" ", "Ġ")) for piece in SCRIPT]
    assert parser.extract_reasoning("".join(SCRIPT), None) == ("typed\na red star", "Yes, blue.")
    assert [ids.decode([token]) for token in parser.extract_content_ids(said)][:4] == ["Yes", ",", " blue", "."]
    reasoning, content, text = "", "", ""
    for piece in SCRIPT:
        delta = parser.extract_reasoning_streaming(text, text + piece, piece, (), (), ())
        reasoning += (delta.reasoning if delta else None) or ""
        content += (delta.content if delta else None) or ""
        text += piece
    assert (reasoning, content) == ("typed\na red star", "Yes, blue.")
