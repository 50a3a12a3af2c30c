"""Pictures as people have them: every size occurs, every scene fits, and what is said of them is true."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import numpy as np
import pytest
from recipes.nano.data import QA, Sample, render_sample
from recipes.nano.data.asking import held_out_questions
from recipes.nano.data.labels import SIDE
from recipes.nano.data.pieces import whole_pieces
from recipes.nano.data.sample import MADE, SIZED, render_at
from recipes.nano.data.scene_figures import calculation
from recipes.nano.data.scene_phrases import HONEST, LONG, LOOKS
from recipes.nano.data.sizes import LARGEST, SMALLEST, drawn_size, pick_size, unit_of
from recipes.nano.data.words import held_out_word
from recipes.nano.tiles import TILING, tiles_of

from vita.media.image import choose_grid

FIT_ANYWHERE = ("words", "shapes", "signs", "clocks", "beyond", "nothing")


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    return [render_sample(k, "train" if k % 2 else "heldout", "scenes", 21) for k in range(64)]


def asked(samples: list[Sample]) -> list[QA]:
    return [qa for sample in samples for qa in sample.qa]


def test_every_range_of_sizes_occurs() -> None:
    rng = Random(3)
    sizes = [pick_size(rng) for _ in range(3000)]
    assert all(SMALLEST <= edge <= LARGEST for size in sizes for edge in size)
    aspects = [width / height for width, height in sizes]
    assert min(aspects) < 0.28 and max(aspects) > 3.6 and max(max(a, 1 / a) for a in aspects) < 4.1
    assert {(1280, 720), (1920, 1080), (800, 600), (320, 240), (390, 844)} <= set(sizes)
    squares = [width for width, height in sizes if width == height]
    assert min(squares) < 120 and any(225 < edge < 317 for edge in squares) and max(squares) > 1000
    assert sum(224 <= max(size) <= 1300 for size in sizes) > 0.75 * len(sizes)
    assert any(max(size) > 3000 for size in sizes)
    grids = Counter(choose_grid(*size, TILING) for size in sizes)
    assert set(grids) == {(1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (4, 1), (2, 2)}
    assert min(grids.values()) > 40


def test_a_picture_is_drawn_smaller_only_where_that_cuts_it_alike() -> None:
    rng = Random(4)
    for _ in range(1500):
        size = pick_size(rng)
        drawn = drawn_size(rng, size)
        assert choose_grid(*drawn, TILING) == choose_grid(*size, TILING)
        assert drawn[0] / drawn[1] == pytest.approx(size[0] / size[1], rel=0.02) and max(drawn) <= max(size)
        assert drawn == size or unit_of(drawn) > 0.5, "no letter loses more than half of its pixels"


@pytest.mark.parametrize("scene", sorted({*SIZED, *MADE}))
def test_every_scene_is_drawn_at_any_size_it_may_have(scene: str) -> None:
    wide = [(400, 100), (224, 896)] if scene in FIT_ANYWHERE else []
    for size in [(100, 100), (224, 224), (640, 360), *wide]:
        sample = render_at(2, "train", scene, size, 8)
        assert sample.picture is not None and sample.picture.shape == (size[1], size[0], 3)
        assert sample.qa and (sample.chars is None or size == (SIDE, SIDE))
        columns, rows = choose_grid(*size, TILING)
        assert len(tiles_of(sample.picture)) == (columns * rows + 1 if columns * rows > 1 else 1)


def test_answers_say_what_they_should_and_are_made_of_whole_words(scenes: list[Sample]) -> None:
    pieces = {piece.strip() for piece in whole_pieces()} | {"I", "a", "A"}
    for text in [qa.answer for qa in asked(scenes)] + [HONEST.format(look) for look in LOOKS] + [LONG]:
        assert text and "{" not in text
        words = set(re.findall(r"[A-Za-z]+", re.sub(r"'[^']*'", "", text)))
        assert words <= pieces, (words - pieces, text)
    for qa in asked(scenes):
        assert all(key.lower() in qa.answer.lower() for key in qa.key.split("|")), qa
        assert "{" not in qa.question and "\n" not in qa.question


def test_signs_and_messages_hold_no_word_of_the_other_split(scenes: list[Sample]) -> None:
    checked = 0
    for number, sample in enumerate(scenes):
        shown = [qa.key.strip("'") for qa in sample.qa if re.fullmatch(r"read\d|title|point", qa.kind)]
        for word in (w for text in shown for w in text.split(" ")):
            assert held_out_word(word) == (number % 2 == 0), word
            checked += 1
    assert checked > 100


def test_new_held_out_phrasings_are_not_asked_in_training(scenes: list[Sample]) -> None:
    plain = [re.sub(r"[^a-z0-9' ]", "", qa.question.lower()) for qa in asked(scenes[1::2])]
    assert not set(plain) & held_out_questions()


def test_of_what_is_beyond_it_the_model_says_so(scenes: list[Sample]) -> None:
    told = {qa.answer for qa in asked(scenes) if qa.kind == "nothing"}
    assert told <= {LONG, *(HONEST.format(look) for look in LOOKS)} and len(told) >= 5
    assert any(sum(qa.kind == "nothing" for qa in sample.qa) >= 4 for sample in scenes)


def test_plus_and_minus_are_alike() -> None:
    signs: Counter[str] = Counter()
    operands: dict[str, Counter[bool]] = {"+": Counter(), "-": Counter()}
    for k in range(2000):
        a, sign, b = calculation(Random(k), "train")[0].split(" ")
        signs[sign] += 1
        if sign in operands and int(a) >= int(b):
            operands[sign][int(a) > 9] += 1
    assert abs(signs["+"] - signs["-"]) < 130 and signs["×"] > 200
    big = {sign: counts[True] / counts.total() for sign, counts in operands.items()}
    assert abs(big["+"] - big["-"]) < 0.1, "the numbers must not tell the sign"


def test_places_are_true_of_the_whole_picture() -> None:
    checked = 0
    for k in range(80):
        size = (800, 200) if k % 2 else (200, 700)
        sample = render_at(k, "train", "shapes", size, 6)
        caption = next((qa for qa in sample.qa if qa.kind == "caption_shapes"), None)
        lone = r"The image shows an? \w+ \w+ (at|on) the [a-z ]+ on an? [a-z ]+ background\."
        if caption is None or re.fullmatch(lone, caption.answer) is None:
            continue
        assert sample.picture is not None
        apart = np.abs(sample.picture.astype(int) - np.median(sample.picture, (0, 1))).sum(2) > 150
        if not 0 < apart.mean() < 0.3:
            continue
        rows, columns = np.nonzero(apart)
        x, y = columns.mean() / size[0], rows.mean() / size[1]
        for word, low, high, at in (
            ("left", 0, 0.42, x), ("right", 0.58, 1, x), ("top", 0, 0.42, y), ("bottom", 0.58, 1, y),
        ):  # fmt: skip
            if re.search(rf"(at the|on the)( top| bottom)? {word}\b|at the {word}\b", caption.answer):
                assert low <= at <= high, (caption.answer, x, y)
                checked += 1
    assert checked >= 4
