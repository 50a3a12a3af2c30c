"""Right or wrong, and how sure: scoring of answers into the rows of the model card.

Owns what counts as right, the table's rows, intervals and the blind baseline. Does not know how answers were made.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from recipes.nano.data import QA
from recipes.nano.data.turns import turn_kinds
from recipes.nano.data.words import WordBook
from recipes.nano.look import endless, visible

SHADE = re.compile(r"(?:dark|light) $")
YES_NO = frozenset(("icon", "bold", "capitals", "is_text_color", "says", "exists", "compare", "relation"))
CONCLUDED = frozenset(
    ("count_kind", "count_color", "exists", "relation", "compare", "largest", "smallest", "sum", "says",
     "count_letters", "where", "which_shape", "shape_color", "bar_color", "value", *turn_kinds())
)  # fmt: skip
# Row of the table, its mark in per cent on a CPU (None: no mark), the kinds it gathers.
ROWS: tuple[tuple[str, int | None, tuple[str, ...]], ...] = (
    ("colour (text, shape, bar)", 92, ("text_color", "shape_color", "bar_color")),
    ("background", None, ("background",)),
    ("shape", 90, ("which_shape", "shape_at")),
    ("count (shapes, words, bars)", 85, ("count_all", "count_kind", "count_color", "count_words", "bars")),
    ("position", 75, ("where", "place")),
    ("size of the text", None, ("size",)),
    ("one word: dictionary", 85, ("read_dictionary",)),
    ("one word: invented, up to 8 letters", 85, ("read_invented",)),
    ("one word: code", None, ("read_code",)),
    ("one word: longer invented", None, ("read_long",)),
    ("two words", 60, ("read2",)),
    ("three words", None, ("read3",)),
    ("first and last letter, number of letters", None, ("first_letter", "last_letter", "count_letters")),
    ("caption attributes", 93, ("caption",)),
    ("yes/no", 88, tuple(sorted(YES_NO - {"relation"}))),
    ("relations", 70, ("relation", "bigger")),
    ("chart: largest/smallest", 75, ("largest", "smallest")),
    ("chart: value", 60, ("value",)),
    ("numbers", None, ("number",)),
    ("sums", None, ("sum", "read_sum")),
    ("clock", None, ("time",)),
    ("outside its world: honest", 90, ("outside",)),
    ("not in the picture, no picture: honest", None, ("absent", "no_picture", "nothing")),
    ("about itself", None, ("who", "able", "hello")),
    ("follow-up about the answer before", None, turn_kinds()),
    ("two questions in one", None, ("both",)),
    ("something wrong taken for granted", None, ("presupposed",)),
)


@dataclass(frozen=True)
class Scored:
    """One question's points; captions give one for each attribute."""

    kind: str
    right: int
    of: int
    exact: bool
    blind: int  # points of the blind answer
    endless: bool = False  # a look began and never ended


@dataclass(frozen=True)
class Line:
    """One row of the table; shares are in per cent."""

    name: str
    mark: int | None
    right: int
    of: int
    exact: int
    questions: int
    blind: int | None  # None: no answer can be given without listening

    @property
    def share(self) -> float:
        return 100 * self.right / max(1, self.of)

    @property
    def interval(self) -> tuple[float, float]:
        low, high = wilson(self.right, self.of)
        return 100 * low, 100 * high


def wilson(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share."""
    if of == 0:
        return 0.0, 1.0
    share = right / of
    middle = share + z * z / (2 * of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    scale = 1 + z * z / of
    # Rounding must not push the ends past the shares that were seen.
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def holds(answer: str, key: str) -> bool:
    """Whether the answer says `key`: whole words, in the same case, and no shade that the key does not name."""
    if key in ("yes", "no"):
        return re.match(rf"{key}\b", answer, re.IGNORECASE) is not None or (
            key == "no" and " no " in answer and "there" in answer.lower()
        )
    edge = r"(?<!\w){}(?!\w)"
    return any(not SHADE.search(answer[: m.start()]) for m in re.finditer(edge.format(re.escape(key)), answer))


def conclusion(qa: QA, answer: str) -> str:
    """What is judged: the visible text. Version 4 wrote its looks before a colon, so those are looks too."""
    return visible(answer)


def points(qa: QA, answer: str) -> tuple[int, int]:
    """Points won and to be won."""
    parts = qa.key.split("|")
    answer = conclusion(qa, answer)
    won = sum(holds(answer, part) for part in parts)
    if qa.kind in CONCLUDED and qa.key.startswith("'") and len(re.findall(r"'[^']+'", answer)) > 1:
        won = 0  # to name them all is to choose none
    if qa.kind.startswith("caption"):
        return won, len(parts)
    return int(won == len(parts)), 1


def share_right(entry: Mapping[str, str], answer: str) -> float:
    """Points of an answer to a question that `recipes.nano.freeze` wrote down, as a share."""
    won, of = points(QA(entry["question"], entry["answer"], entry.get("kind", ""), entry["key"]), answer)
    return won / of


def fine_kind(qa: QA, dictionary: frozenset[str]) -> str:
    """The kind under which a question is counted: captions together, single words by their origin."""
    if qa.kind.startswith("caption"):
        return "caption"
    if qa.kind != "read1":
        return qa.kind
    word = qa.key.strip("'")
    if word.lower() in dictionary:
        return "read_dictionary"
    if (word.isupper() and not set("AEIOUY") & set(word)) or any(c.isdigit() for c in word):
        return "read_code"
    return "read_invented" if len(word) <= 8 else "read_long"


class Blind:
    """The answer one would give without looking: the commonest key of the kind in training."""

    def __init__(self, training: Iterable[QA]) -> None:
        keys: dict[str, Counter[str]] = defaultdict(Counter)
        for qa in training:
            for place, part in enumerate(qa.key.split("|")):
                keys[_slot(qa, place)][part] += 1
        self.best = {slot: counter.most_common(1)[0][0] for slot, counter in keys.items()}

    def points(self, qa: QA) -> int:
        """Points of the blind answer."""
        parts = qa.key.split("|")
        won = sum(self.best.get(_slot(qa, place)) == part for place, part in enumerate(parts))
        return won if qa.kind.startswith("caption") else int(won == len(parts))


def _slot(qa: QA, place: int) -> str:
    return f"{qa.kind}/{place}"


def known_words() -> frozenset[str]:
    """Every dictionary word of the recipe, lower case."""
    book = WordBook()
    return frozenset(w.lower() for words in book.dictionary.values() for w in words)


def score(questions: Sequence[QA], answers: Sequence[str], blind: Blind) -> list[Scored]:
    """Each question with its points."""
    dictionary = known_words()
    out = []
    for qa, answer in zip(questions, answers, strict=True):
        right, of = points(qa, answer)
        exact = visible(answer) == visible(qa.answer)
        out.append(Scored(fine_kind(qa, dictionary), right, of, exact, blind.points(qa), endless(answer)))
    return out


def lines(scored: Sequence[Scored]) -> list[Line]:
    """The table's rows, those without questions left out."""
    made = []
    for name, mark, kinds in ROWS:
        mine = [s for s in scored if s.kind in kinds]
        if mine:
            made.append(
                Line(
                    name, mark, sum(s.right for s in mine), sum(s.of for s in mine), sum(s.exact for s in mine),
                    len(mine), sum(s.blind for s in mine),
                )
            )  # fmt: skip
    return made


def _share(part: int | None, of: int) -> str:
    return "" if part is None else f"{100 * part / of:.1f} %"


def markdown(title: str, rows: Sequence[Line]) -> str:
    """A Markdown table."""
    out = [
        f"### {title}", "", "| | right | 95 % interval | of | answer exact | blind | mark |",
        "|" + "---|" * 7,
    ]  # fmt: skip
    for row in rows:
        low, high = row.interval
        out.append(
            f"| {row.name} | {row.share:.1f} % | {low:.0f} to {high:.0f} | {row.of} | "
            f"{100 * row.exact / row.questions:.1f} % | {_share(row.blind, row.of)} | {row.mark or ''} |"
        )
    return "\n".join(out) + "\n"
