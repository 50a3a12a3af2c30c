"""Questions as people type them: short, polite, misspelt, two at once, or with a wrong idea of the picture.

Owns what may be done to a typed question without changing its answer, and the questions that are made of others. Spoken
questions stay as they are: a synthesiser says them. Each way of typing has a part that only the held-out split uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from recipes.nano.data.labels import COLORS, POSITIONS, QA, Split, small
from recipes.nano.data.pieces import heard_words
from recipes.nano.data.shapes import at
from recipes.nano.look import QUOTED, joined
from recipes.nano.look import split as parted

SHARE = 0.35  # of the typed questions
COMBINED, SUPPOSED = 0.12, 0.14  # of the rows have a question of two, and one with a presupposition
LONGEST_PAIR = 200  # characters of two answers
_SPELLINGS = (("color", "colour"), ("gray", "grey"), ("center", "centre"))
# What is typed for what, in training; then on the held-out split. \1 is the first group.
_SHORT: tuple[tuple[str, str, str], ...] = (
    (r"^What is (.+)\?$", r"What's \1?|Whats \1?|what's \1|whats \1|what is \1 then?", r"wats \1?|So what is \1?"),
    (r"^Where is (.+)\?$", r"Where's \1?|Wheres \1?|wheres \1|And \1, where is it?|\1 is where?", r"\1, where?"),
    (r"^Who are you\?$", r"Who r you?|who are u|And you are?", r"Who am I chatting with?"),
    (r"^How many (.+) are there\?$", r"How many \1?|how many \1|\1, how many?|How many \1 in total?|no of \1?",
     r"Total \1?|Amount of \1?"),
    (r"^How many (.+) do you see\?$", r"How many \1 do u see?|How many \1 can u see|how many \1 u see", r"\1 count?"),
    (r"^Is there an? (.+)\?$", r"Any \1?|any \1 here|Is there any \1?|Is there a \1 or not?|A \1?", r"Got a \1?"),
    (r"^(?:What|Which) colou?r is (the .+)\?$",
     r"Color of \1?|And the color of \1?|\1, what color?|what color's \1|\1's color?|\1 is what color?|color \1?",
     r"\1: which color?|Give me the color of \1"),
    (r"^What does (it|the .+) say\?$", r"What's \1 say?|whats \1 say|What \1 says?|\1 says what?|what does \1 say then",
     r"What do you read on \1?"),
    (r"^Where is the (text|word)\?$", r"\1 where?|Position of the \1?|place of the \1", r"\1 position?"),
    (r"^(?:Which bar is|What is) the (largest|smallest)(?: bar)?\?$",
     r"\1 bar?|\1?|the \1 one?|whats the \1|Which is \1?|which one's the \1", r"\1 one of the bars?"),
    (r"^What is the value of ('[^']+')\?$", r"\1 value?|Value of \1?|\1?|How much for \1?|And \1?", r"\1 has what?"),
    (r"^What time is it\?$", r"Time?|the time?|what time|Whats the time", r"Got the time?"),
    (r"^Describe (?:this|the) (?:image|picture)\.$",
     r"describe|Describe it|describe pls|whats this|What's this?|whats in the pic|Whats in this picture|caption this|"
     r"What do we have here?|what am I looking at", r"So what's in here?|whats on the photo|What's going on here?"),
    (r"^Is the text (\w+)\?$", r"\1 text?|\1?|is it \1|The text is \1, right?", r"Text \1, yes?"),
)  # fmt: skip
# What is typed instead, whatever the wording was; then on the held-out split. Captions of all sorts are one kind.
_INSTEAD: dict[str, tuple[str, str]] = {
    "caption": (
        "whats this|What's this?|What is it?|what do u see|Describe.|and what is in the picture?|What have we here?|"
        "Tell me everything you see.|What does the pic show?|Can you describe what's in the image?|whats in the image|"
        "What am I looking at?|Whats that?|Describe everything.|A short description, please.|picture?",
        "What might this be?|Explain the pic.|wat is dis",
    ),
    "read": (
        "whats it say|What's it say?|Text?|the text?|what does that say|Which text is this?|Read it.|read pls|"
        "Read it to me.|What's written here?|whats written|What do the letters say?|And what does it say?|"
        "Can you read it?|word?",
        "Spell it out.|What is it that's written here?|wot does it say",
    ),
    "text_color": (
        "color?|And the color?|and the colour?|Text color?|Color of the text?|What color's the text?|which colour|"
        "Letters in what color?|what color do they have",
        "Ink color?|In which hue is it written?",
    ),
    "background": (
        "background?|And the background?|background color|bg color?|What's the background?|Color of the background?|"
        "what's behind the text|And behind it?",
        "Backdrop color?|What about the background?",
    ),
    "count_all": (
        "how many|How many?|How many are there?|number of shapes?|And how many shapes?|Shapes in total?|"
        "How many shapes altogether?|How many of them?",
        "Total?|Shape count?",
    ),
    "size": ("size?|Text size?|And the size?|how big", "Size of the letters?"),
    "place": ("where?|And where is it?|position?|Where's it?", "Position of the text?"),
    "sum": ("= ?|result?|And the result?|what's the answer|How much?|Calculate it.|whats the result", "Work it out."),
    "number": ("number?|Which number?|what number|And the number?|whats the number", "Digits?"),
    "bars": ("bars?|number of bars|And how many bars?|how many bars", "Bar count?"),
}
_BEFORE = (
    "Please, {}", "please {}", "pls {}", "plz {}", "Hey, {}", "hi, {}", "Hi there! {}", "ok {}", "ok, {}", "So, {}",
    "well, {}", "and {}", "Now {}", "Tell me, {}", "Can you tell me: {}", "Could you please tell me, {}", "Just: {}",
    "Sorry, {}", "Excuse me, {}", "Dear VITA, {}", "VITA, {}", "I wonder: {}", "um, {}", "Hello! {}", "Look: {}",
)  # fmt: skip
_BEFORE_HELD_OUT = ("Kindly answer: {}", "quick question, {}", "Yo, {}", "Do me a favour: {}", "If I may ask, {}")
_AFTER = (
    "{} pls", "{} please", "{}, please", "{} thanks", "{}, thanks", "{} thx", "{} thank you", "{} in the image",
    "{} in this pic", "{} here", "{} exactly", "{}, VITA", "{} by the way", "{} in short", "{} on this picture",
)  # fmt: skip
_AFTER_HELD_OUT = ("{} cheers", "{}, if you can", "{} asap", "{}, many thanks", "{}, any idea")
_ENDS, _ENDS_HELD_OUT = ("", "", "", "", "??", " ?", "!", "?!"), ("", "???", "...")
_JOINS, _JOINS_HELD_OUT = ("{} and {}", "{}, and {}", "{}? And {}", "{}? {}", "{} and also {}"), ("{}; also, {}",)
_ALONE = frozenset(("outside", "hello", "who", "able", "nothing", "no_picture", "absent", "both", "presupposed"))
_WHY = (
    "Why {is} {it} {so}?", "How come {it} {is} {so}?", "Who made {it} {so}?", "Since when {is} {it} {so}?",
    "Why do you think {it} {is} {so}?",
)  # fmt: skip
_WHY_HELD_OUT = ("What is the reason that {it} {is} {so}?",)


def varied(rng: Random, split: Split, questions: Sequence[QA], share: float = SHARE) -> list[QA]:
    """The questions, some typed as people type, and now and then one made of them.

    Args:
        rng: of every choice.
        split: whose ways of typing.
        questions: about one picture.
        share: of them that are typed naturally.
    """
    made = list(questions)
    pair = combined(rng, split, questions) if rng.random() < COMBINED else None
    idea = presupposed(rng, split, questions) if rng.random() < SUPPOSED else None
    made += [qa for qa in (pair, idea) if qa]
    return [typed(rng, split, qa) if rng.random() < share else qa for qa in made]


def typed(rng: Random, split: Split, qa: QA) -> QA:
    """The same question as somebody types it."""
    question, instead = qa.question, _INSTEAD.get(re.sub(r"^(caption|read).*", r"\1", qa.kind))
    if instead and rng.random() < 0.25:
        question = rng.choice(instead[split == "heldout"].split("|"))
    return replace(qa, question=carelessly(rng, split, question))


def carelessly(rng: Random, split: Split, question: str) -> str:
    """The question with other words around it, shortened, misspelt, in another case, without its end. What stands in
    quotation marks stays as it is: it is a text of the picture."""
    held = split == "heldout"
    text = _shortened(rng, held, question) if rng.random() < 0.5 else question
    for one, other in _SPELLINGS:
        if rng.random() < 0.4:
            one, other = (other, one) if other in text else (one, other)
            text = _outside_quotes(text, lambda part, a=one, b=other: part.replace(a, b))  # type: ignore[misc]
    if rng.random() < 0.1:
        text = _outside_quotes(text, lambda part: part.replace(" the ", " "))
    if rng.random() < 0.3:
        text = _mistyped(rng, held, text)
    if rng.random() < 0.35:
        text = _politely(rng, held, text)
    case = rng.random()
    if case < 0.45:
        text = _outside_quotes(text, str.lower)
    elif case < 0.51:
        text = _outside_quotes(text, str.upper)
    if rng.random() < 0.55 and text[-1] in ".?!":
        text = text.rstrip(".?! ") + rng.choice(_ENDS_HELD_OUT if held else _ENDS)
    return text.strip() or question


def _outside_quotes(text: str, change: Callable[[str], str]) -> str:
    kept = QUOTED.findall(text)
    free = [change(part) for part in QUOTED.split(text)]
    return "".join(part + quote for part, quote in zip(free, [*kept, ""], strict=True))


def _shortened(rng: Random, held: bool, question: str) -> str:
    fits = [(pattern, train, last) for pattern, train, last in _SHORT if re.match(pattern, question)]
    if not fits:
        return question
    pattern, train, last = rng.choice(fits)
    return re.sub(pattern, rng.choice((last if held else train).split("|")), question)


def _politely(rng: Random, held: bool, text: str) -> str:
    if rng.random() < 0.55:
        return rng.choice(_BEFORE_HELD_OUT if held else _BEFORE).format(small(text))
    end = text[-1] if text[-1] in ".?!" else ""
    return rng.choice(_AFTER_HELD_OUT if held else _AFTER).format(text.removesuffix(end)) + end


def _mistyped(rng: Random, held: bool, text: str) -> str:
    """One word of four letters or more with a letter swapped, dropped or doubled; held out: another letter."""
    quotes = [found.span() for found in QUOTED.finditer(text)]
    words = [
        found for found in re.finditer("[A-Za-z]{4,}", text)
        if not any(a <= found.start() < b for a, b in quotes)
    ]  # fmt: skip
    if not words:
        return text
    word = rng.choice(words)
    spelt, at_letter = word[0], rng.randrange(1, len(word[0]) - 1)
    left, letter, right = spelt[:at_letter], spelt[at_letter], spelt[at_letter + 1 :]
    if held:
        wrong = left + rng.choice("aeinorst") + right
    else:
        wrong = rng.choice((left + right[0] + letter + right[1:], left + right, left + letter + letter + right))
    return text if wrong.lower() in _real_words() else text[: word.start()] + wrong + text[word.end() :]


def _real_words() -> frozenset[str]:
    return frozenset(heard_words())


def combined(rng: Random, split: Split, questions: Sequence[QA]) -> QA | None:
    """Two questions in one, with both answers; the first may be a yes or no."""
    fit = [q for q in questions if q.after is None and q.kind not in _ALONE and "caption" not in q.kind]
    rng.shuffle(fit)
    if len(fit) < 2:
        return None
    one, other = fit[:2]
    if other.key in ("yes", "no"):
        one, other = other, one
    if other.key in ("yes", "no") or one.kind == other.kind or len(one.answer + other.answer) > LONGEST_PAIR:
        return None
    join = rng.choice(_JOINS_HELD_OUT if split == "heldout" else _JOINS)
    second = other.question if join.endswith("? {}") else small(other.question)
    looks, said = zip(*(parted(qa.answer) for qa in (one, other)), strict=True)
    answer = joined("\n".join(filter(None, looks)), " ".join(said))
    question = join.format(one.question.rstrip(".?!"), second)
    if one.kind == "text_color" and other.kind.startswith("read") and rng.random() < 0.5:
        question = join.format("What color is it", "What does it say?" if "? {}" in join else "what does it say?")
    return QA(question, answer, "both", f"{one.key}|{other.key}")


def presupposed(rng: Random, split: Split, questions: Sequence[QA]) -> QA | None:
    """A question that takes something for granted, mostly wrongly: "Why is the circle red?". The answer says what is
    so, and what is not."""
    fit = [made for qa in questions if qa.after is None and (made := _supposed(rng, split, qa))]
    return rng.choice(fit) if fit else None


def _supposed(rng: Random, split: Split, qa: QA) -> QA | None:
    look, said = parted(qa.answer)
    if qa.kind in ("shape_color", "text_color", "background", "bar_color", "where", "place"):
        found = re.fullmatch(r"The (.+) is ((?:in|on|at) the .+|\w+)\.", said)
        if found is None or found[2] not in (*COLORS, *map(at, POSITIONS)):
            return None
        likes = COLORS if found[2] in COLORS else tuple(map(at, POSITIONS))
        asked = {"it": f"the {found[1]}", "is": "is"}
        return _why(rng, split, look, said, asked, found[2], rng.choice([x for x in likes if x != found[2]]))
    if qa.kind in ("count_all", "count_kind", "count_color") and (
        found := re.fullmatch(r"There (?:are|is) (\w+) (.+)\.", said)
    ):
        number = rng.choice([n for n in range(2, 7) if str(n) != found[1]])
        question = rng.choice(("Why are there {} {}?", "How come there are {} {}?", "Who drew the {} {}?"))
        things = found[2] if found[1] != "1" else found[2] + ("es" if found[2][-1] in "sx" else "s")
        if split == "heldout":
            question = "For what reason are there {} {}?"
        answer = f"{said[:-1]}, not {number}." if found[1] != "no" else said
        key = f"{found[1]}|not {number}" if found[1] != "no" else "no"
        return QA(question.format(number, things), joined(look, answer), "presupposed", key)
    if qa.kind in ("largest", "smallest"):
        others = [label for label in dict.fromkeys(QUOTED.findall(look)) if label != qa.key]
        if not others:
            return None
        asked = {"it": "", "is": "is"}
        other = rng.choice(others)
        question = rng.choice(("Why is {} the {} bar?", "How come {} is the {}?"))
        question = "For what reason is {} the {} bar?" if split == "heldout" else question
        answer = joined(look, f"{said[:-1]}, not {other}.")
        return QA(question.format(other, qa.kind), answer, "presupposed", f"{qa.key}|not {other}")
    return None


def _why(rng: Random, split: Split, look: str, said: str, asked: dict[str, str], true: str, false: str) -> QA:
    """With a true idea a quarter of the time, so that not everything is denied."""
    question = rng.choice(_WHY_HELD_OUT if split == "heldout" else _WHY)
    if rng.random() < 0.25:
        return QA(question.format(**asked, so=true), joined(look, said), "presupposed", true)
    answer = joined(look, f"{said[:-1]}, not {false}.")
    return QA(question.format(**asked, so=false), answer, "presupposed", f"{true}|not {false}")


def held_out_typing() -> tuple[str, ...]:
    """Ways of typing that training never uses."""
    instead = [phrase for _, held in _INSTEAD.values() for phrase in held.split("|")]
    return (*_BEFORE_HELD_OUT, *_AFTER_HELD_OUT, *_JOINS_HELD_OUT, *_WHY_HELD_OUT, *instead)
