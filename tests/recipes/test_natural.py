"""Questions as people type them keep their answer, the texts in quotation marks, and a part that is held out."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes.nano.data import QA, render_sample
from recipes.nano.data.natural import carelessly, combined, held_out_typing, presupposed, typed, varied
from recipes.nano.data.phrases import bare
from recipes.nano.look import END_THINK, QUOTED, split, visible
from recipes.nano.score import points

RED = QA(
    "What color is the circle?",
    "The circle (1) is blue and the star is red: the circle is blue.",
    "shape_color",
    "blue",
)
READ = QA("What does it say?", "It says 'Quorn'.", "read1", "'Quorn'")
THERE = QA("Is there a ring?", "I see a red star: no, there is no ring.", "exists", "no")


@settings(max_examples=150, deadline=None)
@given(st.integers(), st.sampled_from(["Is the bar 'Abcd' larger than 'Efgh'?", "What is 'Wxyz'?", "Read the text."]))
def test_quoted_texts_are_never_touched(seed: int, question: str) -> None:
    for part in ("train", "heldout"):
        made = carelessly(Random(seed), part, question)  # type: ignore[arg-type]
        assert QUOTED.findall(made) == QUOTED.findall(question) and made.strip() == made and made


def test_a_question_keeps_its_answer_and_kind() -> None:
    made = [typed(Random(k), "train", READ) for k in range(200)]
    assert {(qa.answer, qa.kind, qa.key) for qa in made} == {(READ.answer, READ.kind, READ.key)}
    questions = {qa.question for qa in made}
    assert len(questions) > 80
    assert any(q.islower() and q[-1] not in "?." for q in questions) and any(q.isupper() for q in questions)


def test_two_questions_in_one_have_both_answers() -> None:
    made = next(qa for k in range(20) if (qa := combined(Random(k), "train", [RED, THERE])))
    look, said = split(made.answer)
    assert said == "No, there is no ring. The circle is blue." and look.count("\n") == 1
    assert points(made, made.answer) == (1, 1)
    assert points(made, "<think>x</think>No, there is no ring. The circle is red.") == (0, 1)
    assert combined(Random(0), "train", [THERE, THERE]) is None and combined(Random(0), "train", [RED]) is None


def test_what_is_wrongly_taken_for_granted_is_denied() -> None:
    made = [qa for k in range(60) if (qa := presupposed(Random(k), "train", [RED]))]
    denied = [qa for qa in made if "not" in qa.answer]
    assert len(made) == 60 and 30 < len(denied) < 60
    for qa in denied:
        false = qa.key.partition("|not ")[2]
        assert false in qa.question and visible(qa.answer) == f"The circle is blue, not {false}."
        assert points(qa, visible(qa.answer)) == (1, 1) and points(qa, f"The circle is {false}.") == (0, 1)
    assert all("blue" in qa.question for qa in made if qa not in denied)


@pytest.mark.parametrize("stage", ["mix", "charts"])
def test_every_made_question_is_right_and_whole(stage: str) -> None:
    for k in range(60):
        sample = render_sample(k, "train", stage, 31)  # type: ignore[arg-type]
        for qa in varied(Random(k), "train", sample.qa):
            if qa.kind in ("both", "presupposed"):
                assert points(qa, qa.answer) == (1, 1), qa
                assert END_THINK not in visible(qa.answer) and visible(qa.answer).endswith(".")


def test_ways_of_typing_that_are_held_out_are_not_trained() -> None:
    asked = [
        bare(qa.question)
        for k in range(300)
        for qa in varied(Random(k), "train", render_sample(k % 40, "train", "mix", 3).qa, 1.0)
    ]
    for way in held_out_typing():
        words = max((bare(part) for part in re.split(r"\{\w*\}", way)), key=len)
        if len(words) > 6:
            assert not any(words in question for question in asked), way
