"""The training pictures: the same twice, nothing held out in training, answers true to what is drawn."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import numpy as np
import pytest
from recipes.nano.data import CHARS, COLORS, GRID, SHAPES, STAGES, Sample, render_sample
from recipes.nano.data.fonts import FontBook, design_of, held_out_family
from recipes.nano.data.grounds import held_out_pair
from recipes.nano.data.labels import LOWEST, TALLEST
from recipes.nano.data.pages import render_page
from recipes.nano.data.phrases import QUESTIONS
from recipes.nano.data.scene_charts import draw_chart
from recipes.nano.data.scene_figures import draw_figures
from recipes.nano.data.scene_words import draw_words
from recipes.nano.data.studio import Studio, studio
from recipes.nano.data.words import held_out_word
from recipes.nano.score import YES_NO

COUNT = 500


@pytest.fixture(scope="module")
def train() -> list[Sample]:
    return [render_sample(k, "train", "mix", 11) for k in range(COUNT)]


@pytest.fixture(scope="module")
def heldout() -> list[Sample]:
    return [render_sample(k, "heldout", "mix", 11) for k in range(COUNT)]


def quoted_words(samples: list[Sample]) -> set[str]:
    """Words read from pictures, as the keys name them."""
    texts = {key for s in samples for qa in s.qa for key in re.findall(r"'([^']+)'", qa.key + qa.answer)}
    return {w for text in texts for w in text.split(" ") if len(w) > 1 and re.search("[A-Za-z]", w)}


def quote_of(sample: Sample, kind: str) -> str | None:
    return next((qa.key.strip("'") for qa in sample.qa if qa.kind == kind), None)


@pytest.mark.parametrize("stage", STAGES)
def test_same_number_same_sample(stage: str) -> None:
    for split in ("train", "heldout"):
        one, two = (render_sample(5, split, stage, 3) for _ in range(2))
        assert one.qa == two.qa
        for name in ("picture", "chars", "shape", "color"):
            a, b = getattr(one, name), getattr(two, name)
            assert (a is None and b is None) or np.array_equal(a, b)
    other = render_sample(6, "train", stage, 3)
    assert other.picture is None or one.picture is None or not np.array_equal(other.picture, one.picture)


def test_order_of_drawing_does_not_matter() -> None:
    forward = [render_sample(k, "train", "mix", 4).qa for k in range(6)]
    assert forward == [render_sample(k, "train", "mix", 4).qa for k in reversed(range(6))][::-1]


@pytest.mark.parametrize("stage", STAGES)
def test_shapes_and_ranges(stage: str) -> None:
    for k in range(12):
        sample = render_sample(k, "train", stage, 2)
        if sample.picture is None:
            assert sample.chars is None and sample.qa
            continue
        assert sample.picture.dtype == np.uint8 and sample.picture.shape[2] == 3
        assert bool(sample.qa) != stage.startswith("pages")
        if stage in ("tiles", "scenes") and sample.picture.shape != (224, 224, 3):
            assert sample.chars is None
            continue
        if stage == "scenes" and any(qa.kind == "nothing" for qa in sample.qa):  # letters, of which nothing is said
            assert sample.chars is None
            continue
        assert sample.picture.shape == (224, 224, 3)
        for labels, names in ((sample.chars, CHARS), (sample.shape, SHAPES), (sample.color, COLORS)):
            assert labels is not None and labels.shape == (GRID, GRID) and labels.dtype == np.uint8
            assert labels.max() <= len(names)


@pytest.mark.slow
def test_no_word_crosses_the_split(train: list[Sample], heldout: list[Sample]) -> None:
    assert not [w for w in quoted_words(train) if held_out_word(w)]
    assert not [w for w in quoted_words(heldout) if not held_out_word(w) and w.casefold() != "vita"]
    assert held_out_word("VITA") and held_out_word("Vita") and held_out_word("vita")
    assert not any("vita" in w.casefold().split() for w in quoted_words(train))
    assert "vita" not in studio().words.dictionary["train"]


def test_no_font_crosses_the_split() -> None:
    book = studio().letters.book
    if len(book.families) < 20:
        pytest.skip(f"NEEDS FONTS: {book.advise()}")
    used = {split: {design_of(g[0].family) for g in book.groups(split, True)} for split in ("train", "heldout")}
    assert not used["train"] & used["heldout"]
    assert 0.06 < len(used["heldout"]) / len(used["train"] | used["heldout"]) < 0.35
    assert all(held_out_family(f.family) for g in book.groups("heldout", True) for f in g)


def test_a_bare_machine_still_draws() -> None:
    book = FontBook(folders=("/nowhere",))
    assert book.families == ["built-in"] and book.groups("heldout", True)
    assert "apt-get install" in (book.advise() or "")
    bare = Studio(book)
    for split in ("train", "heldout"):
        rng = Random(1)
        for draw in (draw_words, draw_chart, draw_figures):
            canvas, _ = draw(bare, rng, split)
            assert canvas.labels()[0] is not None
        for stage in STAGES[:4]:
            assert render_page(bare, rng, split, stage).chars.any()


def test_held_out_phrasings_are_asked_there_only(train: list[Sample], heldout: list[Sample]) -> None:
    def patterns(side: int) -> dict[str, list[re.Pattern[str]]]:
        return {
            kind: [
                re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(t.rstrip(".?"))) + "[.?]?", re.I) for t in asked[side]
            ]
            for kind, asked in QUESTIONS.items()
        }

    def hits(samples: list[Sample], table: dict[str, list[re.Pattern[str]]], kind: str) -> int:
        asked = [qa.question for s in samples for qa in s.qa if qa.kind == kind]
        return sum(any(p.fullmatch(q) for p in table[kind]) for q in asked)

    held = patterns(1)
    for kind in ("background", "text_color", "count_all", "says", "bold", "who"):
        assert hits(train, held, kind) == 0 and hits(heldout, held, kind) > 0, kind
    for kind, asked in QUESTIONS.items():
        assert not set(asked.train) & set(asked.heldout) and asked.heldout, kind
    assert "Describe this images." in QUESTIONS["caption"].train and "What do you see?" in QUESTIONS["caption"].train


def test_held_out_pairs_are_never_named_in_training(train: list[Sample]) -> None:
    for sample in train:
        for qa in sample.qa:
            for color, kind in re.findall(rf"\b({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b", qa.question + qa.answer):
                assert not held_out_pair("shape", color, kind), qa


@pytest.mark.slow
def test_yes_and_no_are_alike() -> None:
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for k in range(1500):
        for qa in render_sample(k, "train", "mix", 12).qa:
            if qa.kind in YES_NO:
                votes[qa.kind][qa.key] += 1
    assert set(votes) == {"says", "is_text_color", "bold", "capitals", "icon", "exists", "relation", "compare"}
    if len(studio().letters.book.families) < 20:
        del votes["bold"]  # the built-in font has no bold face
    for kind, counts in votes.items():
        total = counts["yes"] + counts["no"]
        assert abs(counts["yes"] / total - 0.5) < 0.04 + 2 * 0.5 / total**0.5, (kind, counts)


def test_keys_stand_in_answers(train: list[Sample], heldout: list[Sample]) -> None:
    for sample in train + heldout:
        for qa in sample.qa:
            for key in qa.key.split("|"):
                assert key.lower() in qa.answer.lower(), qa
            assert "{" not in qa.question + qa.answer


def test_words_read_lie_under_the_patches(train: list[Sample]) -> None:
    checked = 0
    for sample in train:
        text = quote_of(sample, "read1")
        if text is None or sample.chars is None:
            continue
        seen = {CHARS[c - 1] for c in np.unique(sample.chars) if c}
        assert seen and seen <= set(text), (seen, text)
        big = np.count_nonzero(sample.chars) >= 5 * len(text)
        assert not big or len(seen) >= 0.7 * len(set(text)), (seen, text)
        checked += 1
    assert checked > COUNT // 10


def test_shapes_told_lie_under_the_patches(train: list[Sample]) -> None:
    checked = 0
    for sample in train:
        caption = next((qa for qa in sample.qa if qa.kind == "caption_shapes"), None)
        if caption is None or sample.shape is None or sample.color is None:
            continue
        told = re.findall(rf"\b({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b", caption.answer.split(" background: ")[-1])
        assert {SHAPES[k - 1] for k in np.unique(sample.shape) if k} == {kind for _, kind in told}
        assert {COLORS[k - 1] for k in np.unique(sample.color) if k} == {color for color, _ in told}
        total = next((qa.key for qa in sample.qa if qa.kind == "count_all"), None)
        assert total is None or int(total) == len(told)
        checked += 1
    assert checked > COUNT // 10


def test_ink_has_the_color_it_is_said_to_have(train: list[Sample]) -> None:
    for sample in train:
        color = quote_of(sample, "text_color")
        if color in COLORS and sample.color is not None and not quote_of(sample, "time"):
            letters = sample.color[(sample.chars > 0) & (sample.shape == 0)]
            assert set(np.unique(letters)) <= {COLORS.index(color) + 1}


def test_sums_are_right(train: list[Sample], heldout: list[Sample]) -> None:
    for sample in train + heldout:
        result = quote_of(sample, "sum")
        caption = next((qa.answer for qa in sample.qa if qa.kind == "caption_sum"), "")
        found = re.search(r"'(\d+) ([-+×]) (\d+)'", caption)
        if result and found:
            a, b = int(found[1]), int(found[3])
            assert int(result) == {"+": a + b, "-": a - b, "×": a * b}[found[2]]


def test_charts_tell_the_same_story(train: list[Sample]) -> None:
    for sample in train:
        caption = next((qa.answer for qa in sample.qa if qa.kind == "caption_chart"), "")
        values = {label: int(v) for label, v in re.findall(r"'([^']+)' is (\d+)", caption)}
        if not values:
            continue
        for qa in sample.qa:
            if qa.kind == "largest":
                assert values[qa.key.strip("'")] == max(values.values())
            if qa.kind == "smallest":
                assert values[qa.key.strip("'")] == min(values.values())
            if qa.kind == "value":
                assert values[re.findall("'([^']+)'", qa.answer)[-1]] == int(qa.key)


def test_the_tallest_bar_covers_more_patches_than_the_lowest(train: list[Sample]) -> None:
    charts = [s.order for s in train if s.order is not None and any(qa.kind == "caption_chart" for qa in s.qa)]
    assert len(charts) > 5
    for order in charts:
        tall, low = (order == TALLEST).sum(), (order == LOWEST).sum()
        assert tall > 0 and tall >= low, "bars are equally wide"


MARK = re.compile(r" \((\d)\)")
NUMBERED = re.compile(r"((?:[Tt]he )?[a-z]+(?: [a-z]+)?|'[^']+') \((\d)\)")


def test_lists_count_what_is_asked_for(train: list[Sample]) -> None:
    kinds = ("count_kind", "count_color", "exists")
    counts = [qa for s in train for qa in s.qa if qa.kind in kinds and ": " in qa.answer]
    assert len(counts) > 30
    for qa in counts:
        marks = MARK.findall(qa.answer.partition(": ")[0])
        assert marks == [str(k + 1) for k in range(len(marks))], qa.answer
        if qa.kind == "exists":
            assert bool(marks) == (qa.key == "yes"), qa.answer
        else:
            assert len(marks) == (0 if qa.key == "no" else int(qa.key)), qa.answer


def test_two_that_are_compared_are_numbered_as_the_question_names_them(train: list[Sample]) -> None:
    asked = [qa for s in train for qa in s.qa if qa.kind in ("relation", "compare") and MARK.search(qa.answer)]
    assert len({qa.kind for qa in asked}) == 2
    for qa in asked:
        begins, _, rest = qa.answer.partition("; ")
        asked_for, told = ([(name, int(n)) for name, n in re.findall(NUMBERED, part)] for part in (begins, rest))
        assert [n for _, n in asked_for] == [1, 2] and sorted(n for _, n in told) == [1, 2], qa.answer
        names = {n: name.removeprefix("the ").removeprefix("The ") for name, n in asked_for}
        assert 0 <= qa.question.find(names[1]) < qa.question.find(names[2]), (qa.question, qa.answer)
        assert all(name.endswith(names[n]) for name, n in told), "in the list they have the same numbers"


def test_the_last_bar_that_is_marked_is_the_largest_or_the_smallest(train: list[Sample]) -> None:
    asked = [qa for s in train for qa in s.qa if qa.kind in ("largest", "smallest") and ": " in qa.answer]
    assert len(asked) > 20
    for qa in asked:
        told = qa.answer.partition(": ")[0]
        found = re.findall(r"('[^']+')(?: is (\d+))?( \(1\))?", told)
        assert [name for name, _, mark in found if mark][-1] == qa.key
        values = [int(value) if qa.kind == "largest" else -int(value) for _, value, _ in found if value]
        # A mark stands where a value is ahead of all before it; without values, at the bar asked for alone.
        ahead = [k == 0 or value > max(values[:k]) for k, value in enumerate(values)]
        assert [bool(mark) for *_, mark in found] == (ahead or [name == qa.key for name, *_ in found]), qa.answer


def test_the_wordmark_is_what_it_is_said_to_be() -> None:
    from PIL import Image

    path = Path(__file__).parents[2] / "assets" / "vita_logo.png"
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert path.stat().st_size < 60_000
    assert pixels.shape[1] / pixels.shape[0] == pytest.approx(2798 / 770, rel=0.01)
    ground, ink = pixels[3, 3], pixels[pixels.sum(2) > 740]
    assert ground[2] < 110 and ground[2] > 2 * max(ground[:2]) and 0.1 < len(ink) / pixels[..., 0].size < 0.4
