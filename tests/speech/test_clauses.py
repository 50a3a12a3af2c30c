"""The clause splitter: where it cuts, that it does not wait, and that the cut does not depend on the deltas."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vita.speech.clauses import AT_MOST, Clause, ClauseSplitter

TEXT = """# Results of 2024

Dr. Smith went to Washington D.C. yesterday. It cost $12.50! "Really?" she asked. On March 15, 2024, at 10:30 a.m., we \
saw the very long train, which was late; it came from Berlin, and went to Rome, as the timetable had said it would.

1. First item. It has two sentences.
2. Second item with [a link, with a comma](https://example.com/a.b).
- third

```python
print("hi. there")
```
After the code. 你好，我是一个人工智能助手。今天天气很好！「是吗？」他说：“很好。”你觉得呢

| a | b |
|---|---|
| 1 | 2 |

> quoted text, e.g. this
soft wrapped line
and end 😀 done. OK."""

FORMULA = "The function that we want to look at is "


def split(*deltas: str) -> list[Clause]:
    splitter = ClauseSplitter()
    return [clause for delta in deltas for clause in splitter.feed(delta)] + splitter.finish()


def texts(text: str) -> list[str]:
    return [clause.text for clause in split(text)]


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("Hello. How are you?", ["Hello.", "How are you?"]),
        ("Dr. Smith met Mr. Jones at 3 p.m. yesterday.", ["Dr. Smith met Mr. Jones at 3 p.m. yesterday."]),
        ("It costs $12.50! Really?", ["It costs $12.50!", "Really?"]),
        ('He said "Yes." Then he left.', ['He said "Yes."', "Then he left."]),
        ("你好。今天天气很好！是吗？", ["你好。", "今天天气很好！", "是吗？"]),
        ("他说：“很好。”然后走了。", ["他说：“很好。”", "然后走了。"]),
        ("See example.com. It is version 1.2.3.", ["See example.com.", "It is version 1.2.3."]),
        ("One\n\nTwo", ["One", "Two"]),
        ("- one\n- two\n- three", ["- one", "- two", "- three"]),
        ("# Title\nText", ["# Title", "Text"]),
        ("a line that is\nwrapped softly.", ["a line that is\nwrapped softly."]),
        ("Wait... what?", ["Wait... what?"]),
        ("One.\r\n\r\nTwo", ["One.", "Two"]),
        ("- one\r\n- two", ["- one", "- two"]),
        ("Title\n=====\nText", ["Title", "=====\nText"]),
        (f"{FORMULA}$f(x, y) = x^2 + y^2$ and it is convex.", [f"{FORMULA}$f(x, y) = x^2 + y^2$ and it is convex."]),
        (f"{FORMULA}\\(f(x, y)\\), and more.", [f"{FORMULA}\\(f(x, y)\\),", "and more."]),
        (f"{FORMULA}$$f(x, y)$$ and more.", [f"{FORMULA}$$f(x, y)$$ and more."]),
        (f"{FORMULA}$5, and a lot more.", [f"{FORMULA}$5,", "and a lot more."]),
        ("We like $AAPL. It is up.", ["We like $AAPL.", "It is up."]),
        ("Choose x in [0, 1) at random. Then stop.", ["Choose x in [0, 1) at random.", "Then stop."]),
        (f"Use ` [ {'or so ' * 13}on. Then stop.", [f"Use ` [ {'or so ' * 13}on.", "Then stop."]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_cuts(text: str, clauses: list[str]) -> None:
    assert texts(text) == clauses


def test_long_sentences_are_cut_at_commas_and_the_first_soonest() -> None:
    sentence = "This is the first part of it, and here comes the second part, "
    found = texts(sentence * 8 + "the end.")
    assert found[0] == "This is the first part of it,"
    assert len(found[0]) < len(found[1]) < len(found[2])


def test_a_comma_between_numbers_is_no_cut() -> None:
    date = "We will certainly meet again on March 15, 2024 or on April 1, 2025 in the old town."
    assert texts(date) == [date]


def test_text_without_punctuation_is_cut_between_words() -> None:
    found = texts("word " * 400)
    assert all(len(clause) <= AT_MOST[-1] for clause in found)
    assert " ".join(found).split() == ["word"] * 400


def test_code_is_one_clause_and_its_lines_are_none() -> None:
    clauses = split("Look:\n```python\nx = 1. y\n\nz = 2\n```\nDone.")
    assert [(c.text, c.code) for c in clauses] == [("Look:", False), ("python", True), ("Done.", False)]


def test_code_of_lines_that_end_in_two_characters_has_an_end() -> None:
    text = "Here is code:\r\n```python\r\nprint(1)\r\n```\r\nAnd that was all."
    clauses = split(text)
    assert [c.text for c in clauses] == ["Here is code:", "python", "And that was all."]
    assert text[clauses[2].start : clauses[2].end] == "And that was all."
    assert split(*text) == clauses


def test_code_without_an_end_is_not_read() -> None:
    assert [c.text for c in split("```\nx = 1. y = 2\nz.")] == [""]


def test_headings_items_and_paragraphs_pause() -> None:
    pauses = {clause.text: clause.pause for clause in split(TEXT)}
    assert pauses["# Results of 2024"] > 0 and pauses["- third"] > 0
    assert pauses["It cost $12.50!"] == 0


def test_a_clause_comes_before_the_end_of_the_answer() -> None:
    """One character after the first word of the next sentence at the latest."""
    splitter = ClauseSplitter()
    assert splitter.feed("The sky is blue. I") == [Clause("The sky is blue.", 0, 16)]
    splitter = ClauseSplitter()
    assert splitter.feed("今天天气很好，我们去公园。我") == [Clause("今天天气很好，我们去公园。", 0, 13)]


def test_positions_are_those_of_the_answer() -> None:
    end = 0
    for clause in split(TEXT):
        assert end <= clause.start < clause.end <= len(TEXT)
        if not clause.code:
            assert TEXT[clause.start : clause.end].strip() == clause.text
        end = clause.end


def test_reset_starts_at_character_0() -> None:
    splitter = ClauseSplitter()
    splitter.feed("One. Two ```")
    splitter.reset()
    assert splitter.feed("Hello there. A") == [Clause("Hello there.", 0, 12)]


@pytest.mark.parametrize("seed", range(20))
def test_the_same_clauses_for_any_deltas(seed: int) -> None:
    rng = random.Random(seed)
    deltas, position = [], 0
    while position < len(TEXT):
        size = rng.choice([1, 2, 3, 5, 40])
        deltas.append(TEXT[position : position + size])
        position += size
    assert split(*deltas) == split(TEXT)


WORDS = st.lists(
    st.sampled_from(
        ["word", "Dr.", "3.14", "$5,",
         "你好", "。", "，", ". ", "! ", "? ", ", ", "; ", "\n", "\n\n", "- ", "1. ", "# ",
         "```", "```py\n", "\n```\n", "|", "---", "`", "[", "](", ")", "e.g. ", "...", "”",
         '"', "*", "> ", "\r\n", "$", "$$", "\\(", "\\)", "\\[", ", 1)", " ", "  ", "~~~",
         "a" * 50, "好" * 20, "😀", "\t", "12", "—", " - ", ":", "：", "…"]
    ),
    max_size=80,
).map("".join)  # fmt: skip


@given(text=WORDS, data=st.data())
@example(text="```\n```\n. a", data=None)
def test_the_same_clauses_for_any_text_and_any_deltas(text: str, data: st.DataObject | None) -> None:
    whole = split(text)
    assert split(*text) == whole
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
        edges = [0, *cuts, len(text)]
        assert split(*(text[a:b] for a, b in pairwise(edges))) == whole


@given(text=WORDS.filter(lambda text: "```" not in text and "~~~" not in text))
def test_no_word_is_lost_or_said_twice(text: str) -> None:
    spoken = "".join(clause.text for clause in split(text))
    assert [c for c in spoken if c.isalnum()] == [c for c in text if c.isalnum()]


def test_ten_thousand_characters_one_by_one_take_little_time_each() -> None:
    for character in ("a", "。", ".", "`", "\n", " ", "```", "x\n", "好"):
        splitter = ClauseSplitter()
        longest = 0
        for _ in range(10_000):
            splitter.feed(character)
            longest = max(longest, len(splitter._text))
        splitter.finish()
        assert longest < 1000, "the text that waits is bounded"
