"""Second questions hang on the first, and every phrasing of a kind asks for the same."""

from __future__ import annotations

import re
from random import Random

import pytest
import torch
from recipes.nano.checkpoint import grow
from recipes.nano.data import QA, Sample, render_sample
from recipes.nano.data.asking import ask
from recipes.nano.data.beyond import BEYOND_HELD_OUT, beyond, dressed
from recipes.nano.data.more_phrases import MORE
from recipes.nano.data.phrases import QUESTIONS, bare
from recipes.nano.data.pieces import whole_pieces
from recipes.nano.data.turns import TURN, held_out_turns
from recipes.nano.pack import Packer, weight_view
from recipes.nano.score import points
from recipes.nano.tokenizer import build_tokenizer
from tests.prompt.spans import media

from vita.config import DecoderConfig
from vita.model.decoder import Decoder
from vita.prompt.template import Turn, placeholder_ids, render
from vita.prompt.tokenizer import Tokenizer

COUNT = 150


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [render_sample(k, "train", "mix", 21) for k in range(COUNT)]


def test_a_second_question_names_nothing_and_its_answer_does(samples: list[Sample]) -> None:
    turns = [qa for s in samples for qa in s.qa if qa.kind.startswith(TURN)]
    assert len(turns) > COUNT // 6
    for qa in turns:
        assert qa.after is not None and qa.after.after is None
        assert not re.search(r"'|circle|square|star|ring|heart|cross|bar [A-Z]", qa.question)
        assert qa.key in qa.answer or qa.key in ("yes", "no")


def test_second_questions_of_shapes_are_about_the_shape_just_named(samples: list[Sample]) -> None:
    pairs = [(qa.after, qa) for s in samples for qa in s.qa if qa.after and qa.after.kind in ("where", "shape_color")]
    assert pairs
    for before, qa in pairs:
        thing = re.match(r"the (.+?) is", before.answer.rpartition(": ")[2].lower())
        assert thing and thing[1] in qa.answer.rpartition(": ")[2], (before.answer, qa.answer)


def test_a_row_of_two_turns_is_the_engines_conversation(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder)
    tokenizer = Tokenizer.load(folder)
    first = QA("What is the word?", "It says 'A'.", "read1", "'A'")
    second = QA("Where is it?", "The text is at the top.", f"{TURN}place", "at the top", first)
    row = Packer(tokenizer).row([second], 1, Random(0), natural=0)
    said = [Turn("user", (media("image"), first.question)), Turn("assistant", ("☜" + first.answer,)),
            Turn("user", ("Where is it?",))]  # fmt: skip
    wanted = placeholder_ids(render(said, tokenizer))
    wide = [i for token in wanted for i in [token] * (64 if token == -200 else 1)]
    assert row.ids.tolist()[: len(wide)] == wide
    taught = [t for t, weight in zip(row.ids, row.taught, strict=True) if weight]
    assert tokenizer.decode(taught).count("☜") == 2, "both answers are taught"


def test_growing_a_decoder_changes_no_answer() -> None:
    torch.manual_seed(3)
    small = Decoder(DecoderConfig(64, 128, 3, 4, 2, 30), 30)
    large = Decoder(DecoderConfig(64, 128, 5, 4, 4, 30), 30)
    weights = {f"decoder.{name}": t for name, t in small.state_dict().items()}
    grown = grow(weights, 5, 4 * 16, 16)
    large.load_state_dict({name.removeprefix("decoder."): t for name, t in grown.items()})
    x = torch.randn(2, 9, 64)
    torch.testing.assert_close(large(x), small(x))
    with pytest.raises(ValueError, match="2 key/value heads cannot become 3"):
        grow(weights, 5, 3 * 16, 16)


def test_a_list_of_labels_chooses_none() -> None:
    truth = QA("Which is the largest bar?", "'Cat' is 3 and 'Dog' is 9: the largest bar is 'Dog'.", "largest", "'Dog'")
    assert points(truth, truth.answer) == (1, 1)
    assert points(truth, "'Cat' is 5 and 'Dog' is 9: the largest bar is 'Dog'.") == (1, 1)
    assert points(truth, "The largest bar is 'Dog'.") == (1, 1)
    assert points(truth, "'Cat' is 3 and 'Dog' is 9.") == points(truth, "The largest bar is 'Cat'.") == (0, 1)
    seen = QA("Is there a ring?", "I see a red star: no, there is no ring.", "exists", "no")
    assert points(seen, "I see a red ring: no, there is no ring.") == (1, 1)
    assert (
        points(seen, "I see a red star: yes, there is a ring.") == points(seen, "I see no ring and a star.") == (0, 1)
    )


def test_tokens_of_short_answers_weigh_more() -> None:
    assert weight_view(5) == weight_view(12) == 3 and weight_view(24) == 1.5 and weight_view(90) == 1


@pytest.mark.parametrize("kind", MORE)
def test_further_phrasings_are_new_and_have_the_same_blanks(kind: str) -> None:
    asked = QUESTIONS[kind]
    blanks = {frozenset(re.findall(r"\{\w+\}", t)) for t in asked.train}
    for phrase in MORE[kind].split("|"):
        assert phrase not in asked.train + asked.heldout
        assert frozenset(re.findall(r"\{\w+\}", phrase)) in blanks, phrase


def test_nearly_every_word_of_the_further_phrasings_is_a_piece() -> None:
    pieces = {p.strip() for p in whole_pieces()} | {"I", "A"}
    words = [w for text in MORE.values() for w in re.findall("[A-Za-z]+", re.sub(r"\{\w+\}|'\w\b", " ", text))]
    assert sum(w in pieces for w in words) / len(words) > 0.98


def test_questions_beyond_its_world_are_many_and_none_is_held_out() -> None:
    rng = Random(3)
    asked = {beyond(rng) for _ in range(600)}
    assert len(asked) > 550 and not asked & set(BEYOND_HELD_OUT)
    assert all(q[0].isupper() and "{" not in q for q in asked)


def test_words_around_a_question_never_make_a_held_out_one() -> None:
    templates = [*(t for asked in QUESTIONS.values() for t in asked.heldout), *held_out_turns()]
    held = {bare(t) for t in templates if "{" not in t}
    blanks = dict.fromkeys(
        ("text", "color", "thing", "things", "a_thing", "one", "other", "relation", "at", "label"), "x"
    )
    asked = {ask(Random(k), "train", kind, **blanks) for kind in QUESTIONS for k in range(300)}
    assert not {bare(q) for q in asked} & held


def test_words_before_and_after_leave_the_question_whole() -> None:
    for k in range(60):
        rng = Random(k)
        asked = ask(rng, "train", "where", thing="star")
        assert bare(asked) in bare(dressed(rng, asked))
