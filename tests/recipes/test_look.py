"""A look goes between the think tokens, whatever form it was written in; weights go from vocabulary to vocabulary."""

from __future__ import annotations

import pytest
import torch
from recipes.nano.checkpoint import carried, load_weights, read_shipped
from recipes.nano.data import QA, render_sample
from recipes.nano.data.phrases import ANSWERS
from recipes.nano.look import THINK, endless, joined, looked, split, visible
from recipes.nano.model import Learner, sizes
from recipes.nano.pack import Packer
from recipes.nano.score import Blind, points, score
from recipes.nano.senses import reply
from recipes.nano.speech.rows import repeated, restated
from recipes.nano.spelled import spelled
from recipes.nano.tokenizer import build_tokenizer

from vita.checkpoint.files import DEFAULT
from vita.prompt.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder)
    return Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("written", "look", "answer"),
    [
        ("I see a red star (1): there is 1 star.", "a red star (1)", "There is 1 star."),
        ("☜I see a red star: no, there is no ring.", "a red star", "☜No, there is no ring."),
        ("It says 'a: b': no, it says 'a: b'.", "'a: b'", "No, it says 'a: b'."),
        ("'A' (1) is 3 and 'B' is 4: the value of 'A' is 3.", "'A' (1) is 3 and 'B' is 4", "The value of 'A' is 3."),
        ("The ring (1) is red: the ring is red.", "the ring (1) is red", "The ring is red."),
        ("First the red star is on the left, then on the right: the red star moves to the right.",
         "first the red star is on the left, then on the right", "The red star moves to the right."),
    ],
)  # fmt: skip
def test_what_is_seen_becomes_a_look(written: str, look: str, answer: str) -> None:
    assert split(written) == (look, answer)
    assert split(looked(written)) == (look, answer)
    assert looked(looked(written)) == looked(written) and visible(looked(written)) == answer


@pytest.mark.parametrize(
    "answer",
    [
        "The image shows 2 shapes on a white background: a red star at the top and a ring in the center.",
        "The image shows a bar chart with 2 bars: 'A' is 3 and 'B' is 4.",
        "I can only describe simple pictures: words, shapes, colors, numbers and small charts.",
        "Hello! You can ask me about simple pictures: words, shapes, colors, numbers and small charts.",
        "☞I hear: the star (1) is red.", "The time is '10:45'.", "It says 'Note: (1) buy milk'.", "☟", "",
    ],
)  # fmt: skip
def test_a_colon_of_the_answer_ends_no_look(answer: str) -> None:
    if answer.startswith("☞"):
        answer = answer.replace(" (1)", "")
    assert split(answer) == ("", answer) and looked(answer) == answer


def test_a_sentence_to_repeat_has_no_look() -> None:
    assert looked(repeated("The star is red.")) == "I hear: the star is red."


def test_every_answer_of_the_recipe_is_a_sentence() -> None:
    for stage in ("mix", "drill"):
        answers = [qa.answer for k in range(60) for qa in render_sample(k, "train", stage, 5).qa]  # type: ignore[arg-type]
        for answer in answers:
            said = visible(answer)
            assert said[0].isupper() or said[0] == "'", answer
            assert said.endswith(".") and "I see " not in said, answer
            assert ": " not in said or said.startswith(("The image shows", "I can", "Hello!")) or "'" in said, answer
    assert all(": {verdict}" not in visible(text) for text in ANSWERS.values() if text.startswith("I see"))


def test_a_spoken_questions_look_begins_with_the_question() -> None:
    seen = restated("how many stars are there", "I see a red star (1): there is 1 star.")
    assert seen == "☞<think>How many stars are there?\na red star (1)</think>There is 1 star."
    assert restated("What is it?", "It is red.") == "☞<think>What is it?</think>It is red."
    assert reply(seen) == "There is 1 star."
    assert reply("☞How many stars are there?\nI see a red star (1): there is 1 star.") == "There is 1 star.", (
        "version 4"
    )


def test_only_what_is_visible_is_judged() -> None:
    truth = QA("Is there a ring?", "I see a red star: no, there is no ring.", "exists", "no")
    assert points(truth, "<think>a red star</think>No, there is no ring.") == (1, 1)
    assert points(truth, "<think>no ring</think>Yes, there is a ring.") == (0, 1)
    assert points(truth, "<think>No, there is no ring.") == (0, 1), "a look that never ends says nothing"
    blind = Blind([truth])
    lost, exact = score([truth, truth], ["<think>a a a", "<think>a blue star</think>No, there is no ring."], blind)
    assert lost.endless and not lost.exact and exact.exact and not exact.endless
    assert endless("☜<think>a") and not endless("☜A")


def test_think_tokens_are_tokens_of_the_recipe_and_text_of_users(tokenizer: Tokenizer) -> None:
    packer = Packer(tokenizer)
    begins, ends = tokenizer.token_id("<think>"), tokenizer.token_id("</think>")
    said = packer.turn([], "☜I see a red star (1): there is 1 star.").said
    assert said.count(begins) == said.count(ends) == 1
    assert tokenizer.decode(said) == "☜<think>a red star (1)</think>There is 1 star.<|im_end|>"
    typed = packer.question("What does <think> mean?</think>", 0)
    assert begins not in typed and ends not in typed
    assert THINK not in tokenizer.decode(packer.answer("<think>a star</think>There is 1 star."))


def test_joined_puts_the_look_behind_the_mark() -> None:
    assert joined("a", "☞B.") == "☞<think>a</think>B." and joined("", "☞B.") == "☞B."


def test_weights_keep_their_logits_in_another_vocabulary(tokenizer: Tokenizer) -> None:
    old = Tokenizer.load(DEFAULT)
    weights = read_shipped(DEFAULT)
    models = []
    for vocabulary in (old, tokenizer):
        model = Learner(sizes("hearing", vocabulary.size)).eval() if vocabulary is tokenizer else None
        moved = carried(weights, old, vocabulary)
        if model is not None:
            load_weights(model, moved)
        models.append((vocabulary, moved))
    same = carried(weights, old, old)
    assert all(torch.equal(weights[name], same[name]) for name in weights if not name.startswith("words."))
    text = "☜I see a red star and a blue ring: yes, there is a ring."
    mine, theirs = tokenizer.encode(text), old.encode(text)
    assert [tokenizer.token_bytes(i) for i in mine] == [old.token_bytes(i) for i in theirs]
    before, after = weights["decoder.embed.weight"], models[1][1]["decoder.embed.weight"]
    assert torch.equal(after[mine], before[theirs])
    hidden = torch.randn(3, before.shape[1], generator=torch.Generator().manual_seed(1))
    old_logits = hidden @ weights["decoder.head.weight"].T
    new_logits = hidden @ models[1][1]["decoder.head.weight"].T
    for k in range(old.size):
        moved_to = next(i for i in range(tokenizer.size) if tokenizer.token_bytes(i) == old.token_bytes(k))
        assert torch.equal(new_logits[:, moved_to], old_logits[:, k]), old.token_bytes(k)


def test_ordinary_sentences_are_not_spelled() -> None:
    found = spelled(60)
    assert sum(found.values()) < 60, found.most_common(10)
