"""Rows of several questions say to the model exactly what the engine will say."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
import torch
from recipes.nano.data import QA, render_sample
from recipes.nano.model import Learner, sizes
from recipes.nano.pack import ROWS_PER_TILE, Packer
from recipes.nano.tokenizer import build_tokenizer
from tests.prompt.spans import media

from vita.layers.attention import attend
from vita.prompt.template import IMAGE_PLACEHOLDER, Turn, placeholder_ids, render
from vita.prompt.tokenizer import Tokenizer
from vita.train.attention import QUERIES, ChunkedAttention, blocks_of
from vita.train.losses import answer_loss
from vita.train.packing import IGNORE, collate, segment_mask

ASKED = [
    QA("What color is the circle?", "The circle is red.", "shape_color", "red"),
    QA("What does it say?", "It says 'Quorn'.", "read1", "'Quorn'"),
    QA("Who are you?", "I am a very small demonstration model.", "who", "small"),
]


@pytest.fixture(scope="module")
def packer(tmp_path_factory: pytest.TempPathFactory) -> Packer:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder)
    return Packer(Tokenizer.load(folder))


def widen(ids: list[int]) -> list[int]:
    """One slot for each row of a tile, as rows hold them."""
    return [i for one in ids for i in ([one] * (ROWS_PER_TILE if one == IMAGE_PLACEHOLDER else 1))]


@pytest.mark.parametrize("tiles", [0, 1, 5])
def test_a_prompt_is_the_engines(packer: Packer, tiles: int) -> None:
    pieces = (media("image", tiles), ASKED[0].question) if tiles else (ASKED[0].question,)
    engine = placeholder_ids(render([Turn("user", pieces)], packer.tokenizer))
    assert packer.prefix(tiles) + packer.question(ASKED[0].question, tiles) == widen(engine)


def test_a_second_turn_is_the_engines(packer: Packer) -> None:
    turns = [
        Turn("user", (media("image", 1), ASKED[0].question)),
        Turn("assistant", ("☜" + ASKED[0].answer,)),
        Turn("user", (ASKED[1].question,)),
    ]
    first = packer.dialogue(ASKED[:1], 1)[0]
    mine = packer.prefix(1) + first.asked + first.said
    mine += packer.question(ASKED[1].question, 1, follow_up=True)
    assert mine == widen(placeholder_ids(render(turns, packer.tokenizer)))


def test_only_marks_answers_and_ends_are_taught(packer: Packer) -> None:
    row = packer.row(ASKED, 1, Random(3), natural=0)
    said = packer.tokenizer.decode(row.ids[row.taught > 0].tolist())
    assert sorted(said.split("<|im_end|>")[:-1]) == sorted("☜" + qa.answer for qa in ASKED)
    batch = collate([row, packer.row(ASKED[:1], 0, Random(0), natural=0)])
    taught = batch.target != IGNORE
    assert taught.sum() == (row.taught > 0).sum() + len(packer.dialogue(ASKED[:1], 0)[0].said)
    following = torch.roll(batch.ids, -1, 1)
    assert torch.equal(batch.target[taught], following[taught])


def test_a_conclusion_weighs_like_an_answer_of_its_own(packer: Packer) -> None:
    said = packer.turn([], "☜I see a red ring, a blue star and a green cross: there are no hearts.")
    weights = said.weights()
    assert packer.tokenizer.decode(said.said[said.concludes :]) == "There are no hearts.<|im_end|>"
    assert len(set(weights[: said.concludes])) == 1 and weights[-1] > weights[0] >= 1


def test_a_looks_own_conclusion_weighs_too(packer: Packer) -> None:
    said = packer.turn(
        [], "☜<think>Please tell me: is the ring left?\nthe ring (1) is left: it is left</think>Yes, it is left."
    )
    assert packer.tokenizer.decode(said.said[said.concludes :]) == " it is left</think>Yes, it is left.<|im_end|>"


@pytest.mark.parametrize(
    ("answer", "taught"),
    [
        ("I see a red ring (1), a blue star and a red cross (2): there are 2.", " (1), and (2)</think>There are 2."),
        ("The red ring (1) is at the top and the blue star is on the left: yes.", " (1) is and is</think>Yes."),
        ("'A' is 3, 'Bo' (1) is 12 and 'C' is 4: the value is 12.", " is, (1) is and is</think>The value is 12."),
        ("It says '3 + 4': the result is 7.", "'</think>The result is 7."),
        ("The ring (1) and the star (2); the ring (1) is left and the star (2) is right: the ring is left: no.",
         " (1) and (2) (1) is and (2) is: the ring is left</think>No."),
    ],
)  # fmt: skip
def test_a_drill_gives_what_is_seen_and_teaches_what_to_count(packer: Packer, answer: str, taught: str) -> None:
    whole = packer.turn([], "☜" + answer)
    drill = packer.turn([], "☜" + answer, drill=True)
    assert (drill.said, drill.concludes) == (whole.said, whole.concludes)
    kept = [i for i, weight in zip(drill.said, drill.weights(), strict=True) if weight]
    assert packer.tokenizer.decode(kept) == taught + "<|im_end|>"


def test_a_look_is_not_in_the_history(packer: Packer) -> None:
    first = QA("Is there a ring?", "I see a red ring (1): yes, there is a ring.", "exists", "yes")
    turns = [
        Turn("user", (media("image", 1), first.question)),
        Turn("assistant", ("☜Yes, there is a ring.",)),
        Turn("user", (ASKED[1].question,)),
    ]
    made = packer.dialogue([first, ASKED[1]], 1)
    mine = packer.prefix(1) + made[0].asked + made[0].said + made[1].asked
    assert mine == widen(placeholder_ids(render(turns, packer.tokenizer)))
    row = packer.lay_out([made], 1)
    assert packer.tokenizer.decode(row.ids[row.taught > 0].tolist()) == "☜It says 'Quorn'.<|im_end|>"


def test_a_segment_sees_what_the_question_alone_would_see(packer: Packer) -> None:
    torch.manual_seed(0)
    model = Learner(sizes("tiny", packer.tokenizer.size)).eval()
    row = packer.row(ASKED, 1, Random(1), natural=0)
    batch = collate([row])
    embeds = torch.randn(1, len(row.ids), model.size.decoder.hidden_size)
    with torch.no_grad():
        packed = model.decoder(embeds, None, batch.position, segment_mask(batch.segment))[0]
        for number in range(1, int(row.segment.max()) + 1):
            chosen = torch.from_numpy(np.flatnonzero((row.segment == 0) | (row.segment == number)))
            alone = model.decoder(embeds[:, chosen])[0]
            assert torch.equal(batch.position[0, chosen], torch.arange(len(chosen)))
            torch.testing.assert_close(packed[chosen], alone, atol=1e-5, rtol=1e-4)


def test_padding_changes_no_loss(packer: Packer) -> None:
    torch.manual_seed(0)
    model = Learner(sizes("tiny", packer.tokenizer.size)).eval()
    short, long = packer.row(ASKED[:1], 1, Random(1), natural=0), packer.row(ASKED, 1, Random(1), natural=0)
    seen = torch.randn(2, ROWS_PER_TILE, model.size.decoder.hidden_size)
    with torch.no_grad():
        both = answer_loss(model.decoder, collate([short, long]), seen)[0]
        one = answer_loss(model.decoder, collate([short]), seen[:1])[0]
        other = answer_loss(model.decoder, collate([long]), seen[1:])[0]
    weights = torch.tensor([short.taught.sum(), long.taught.sum()], dtype=torch.float32)
    expected = (torch.stack([one, other]) * weights).sum() / weights.sum()
    torch.testing.assert_close(both, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["open", "causal", "causal, after others", "mask"])
def test_plain_attention_is_the_engines(kind: str) -> None:
    torch.manual_seed(0)
    queries = 3 if kind == "causal, after others" else 9
    q, k, v = torch.randn(2, 6, queries, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    mask = (torch.rand(2, 1, 9, 9) > 0.4) | torch.eye(9, dtype=torch.bool) if kind == "mask" else None
    causal = kind.startswith("causal")
    mine, theirs = ChunkedAttention()(q, k, v, mask=mask, causal=causal), attend(q, k, v, mask=mask, causal=causal)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_blocks_of_queries_under_a_mask_of_segments_are_the_whole() -> None:
    torch.manual_seed(0)
    lengths = ((70, 50, 40, 90, 60), (90, 100, 60, 50))  # the prefix, then segments
    n = 2 * QUERIES + 54
    segment = torch.full((2, n), -1)
    for line, parts in zip(segment, lengths, strict=True):
        numbered = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(parts))
        line[: len(numbered)] = numbered
    mask = segment_mask(segment)
    blocks = blocks_of(mask, torch.float32)
    assert [block.rows.start for block in blocks] == [0, QUERIES, 2 * QUERIES]
    assert isinstance(blocks[2].keys, torch.Tensor) and len(blocks[2].keys) < n - 20, "earlier segments are left out"
    inputs = [torch.randn(2, heads, n, 8, requires_grad=True) for heads in (4, 2, 2)]
    attention, upstream = ChunkedAttention(), torch.randn(2, 4, n, 8)
    for _ in range(2):  # the second layer with the same mask takes the same blocks
        mine, theirs = attention(*inputs, mask=mask), attend(*inputs, mask=mask)
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
        gradients = [torch.autograd.grad(out, inputs, upstream) for out in (mine, theirs)]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    other = mask & ~torch.eye(n, dtype=torch.bool).roll(-1, 1)
    torch.testing.assert_close(attention(*inputs, mask=other), attend(*inputs, mask=other), atol=1e-5, rtol=1e-5)


def test_fast_attention_has_the_engines_gradients() -> None:
    torch.manual_seed(3)
    mask = (torch.rand(2, 1, 9, 9) > 0.4) | torch.eye(9, dtype=torch.bool)
    inputs = [torch.randn(2, heads, 9, 8, requires_grad=True) for heads in (4, 2, 2)]
    upstream = torch.randn(2, 4, 9, 8)
    mine = torch.autograd.grad(ChunkedAttention()(*inputs, mask=mask), inputs, upstream)
    theirs = torch.autograd.grad(attend(*inputs, mask=mask), inputs, upstream)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_comparisons_conclude_yes_and_no_and_the_word_that_decides_weighs_most(packer: Packer) -> None:
    made = [qa for index in range(20) for qa in render_sample(index, "train", "comparisons", 3).qa]
    assert {qa.kind for qa in made} == {"relation", "compare", "largest", "smallest"}
    asked = [qa for qa in made if qa.kind in ("relation", "compare")]
    keys = Counter(qa.key for qa in asked)
    assert min(keys["yes"], keys["no"]) > 0.3 * len(asked)
    for qa in asked[:30]:
        turn = packer.turn([], "☜" + qa.answer, drill=True)
        weights = turn.weights()
        assert packer.tokenizer.decode([turn.said[weights.index(max(weights))]]) == qa.key.capitalize()
