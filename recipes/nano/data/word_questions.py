"""The questions about pictures of words."""

from __future__ import annotations

from random import Random

from recipes.nano.data.asking import ask
from recipes.nano.data.labels import COLORS, QA, Split
from recipes.nano.data.phrases import answer, quoted
from recipes.nano.data.scene_words import WordPicture, icon_phrase
from recipes.nano.data.shapes import at, place_name
from recipes.nano.data.turns import word_turns
from recipes.nano.data.words import WordBook

_SIZES = (("small", 0.0, 0.12), ("medium", 0.17, 0.3), ("large", 0.38, 9.0))  # of the picture's height, gaps between


def word_questions(rng: Random, split: Split, scene: WordPicture, words: WordBook) -> list[QA]:
    """Caption and reading always, the rest by draw."""
    rest = [
        QA(ask(rng, split, "text_color"), answer("text_color", color=scene.color), "text_color", scene.color),
        scene.ground.qa(rng, split),
        _is_color(rng, split, scene),
        _says(rng, split, scene.text, len(scene.words), words),
        _bold(rng, split, scene),
        _count_words(rng, split, scene),
    ]
    for made in (
        _size(rng, split, scene),
        _place(rng, split, scene),
        _icon(rng, split, scene),
        _capitals(rng, split, scene),
    ):
        rest += [made] if made else []
    rest += _spelling(rng, split, scene)
    rng.shuffle(rest)
    read = QA(ask(rng, split, "read"), answer("read", text=quoted(scene.text)), _read_kind(scene), quoted(scene.text))
    made = [word_caption(rng, split, scene), read, *rest[: rng.randint(4, 5)]]
    return [*made, *(word_turns(rng, split, made) if rng.random() < 0.5 else ())]


def _read_kind(scene: WordPicture) -> str:
    return f"read{len(scene.words)}"


def word_caption(rng: Random, split: Split, scene: WordPicture) -> QA:
    """One sentence, and another for an icon, a line or a box."""
    kind = "caption_word" if len(scene.words) == 1 else "caption_words"
    style = f"bold {scene.color}" if scene.face.bold else scene.color
    text = answer(kind, text=quoted(scene.text), style=style, ground=scene.ground.phrase)
    keys = [quoted(scene.text), f"in {style} letters", scene.ground.key]
    if scene.icon:
        text += answer("caption_icon", icon=icon_phrase(scene), side=scene.icon_side)
        keys.append(f"{icon_phrase(scene)} {scene.icon_side} it")
    elif scene.deco:
        text += answer(f"caption_{scene.deco}")
        keys.append("underlined" if scene.deco == "underline" else "a box around it")
    return QA(ask(rng, split, "caption"), text, "caption_words", "|".join(keys))


def imagined_words(rng: Random, split: Split, words: WordBook) -> QA:
    """A question whose answer follows from a word, about one that could stand in a picture."""
    text = words.phrase(rng, split, 1, capitals=rng.random() < 0.3)
    return _letters(rng, split, text) if text.isalpha() and rng.random() < 0.6 else _says(rng, split, text, 1, words)


def _yes_no(rng: Random, split: Split, kind: str, truth: bool, name: str | None = None, **blanks: str) -> QA:
    side = "yes" if truth else "no"
    return QA(ask(rng, split, kind), answer(f"{kind}_{side}", **blanks), name or kind, side)


def _is_color(rng: Random, split: Split, scene: WordPicture) -> QA:
    truth = rng.random() < 0.5
    color = scene.color if truth else rng.choice([c for c in COLORS if c != scene.color])
    text = answer(f"is_text_color_{'yes' if truth else 'no'}", color=scene.color)
    return QA(ask(rng, split, "is_text_color", color=color), text, "is_text_color", "yes" if truth else "no")


def _says(rng: Random, split: Split, shown: str, count: int, words: WordBook) -> QA:
    truth = rng.random() < 0.5
    other = shown
    while not truth and other == shown:
        other = words.phrase(rng, split, count, capitals=shown.isupper())
    text = answer(f"says_{'yes' if truth else 'no'}", text=quoted(shown))
    return QA(ask(rng, split, "says", text=other), text, "says", "yes" if truth else "no")


def _letters(rng: Random, split: Split, text: str) -> QA:
    count = str(len(text))
    said = answer("count_letters", text=quoted(text), count=count)
    return QA(ask(rng, split, "count_letters"), said, "count_letters", count)


def _bold(rng: Random, split: Split, scene: WordPicture) -> QA:
    return _yes_no(rng, split, "bold", bool(scene.face.bold))


def _capitals(rng: Random, split: Split, scene: WordPicture) -> QA | None:
    if not scene.text.isupper() and rng.random() < 0.27:  # keeps yes and no alike
        return None
    return _yes_no(rng, split, "capitals", scene.text.isupper())


def _icon(rng: Random, split: Split, scene: WordPicture) -> QA | None:
    if scene.icon:
        return _yes_no(rng, split, "icon", True, icon=icon_phrase(scene))
    return _yes_no(rng, split, "icon", False) if rng.random() < 0.36 else None


def _count_words(rng: Random, split: Split, scene: WordPicture) -> QA:
    count = len(scene.words)
    text = answer("count_word") if count == 1 else answer("count_words", count=count)
    return QA(ask(rng, split, "count_words"), text, "count_words", str(count))


def _size(rng: Random, split: Split, scene: WordPicture) -> QA | None:
    if scene.lines > 1 or scene.tilt:
        return None
    share = scene.box.height / scene.size[1]
    for name, low, high in _SIZES:
        if low <= share <= high:
            return QA(ask(rng, split, "size"), answer("size", size=name), "size", name)
    return None


def _place(rng: Random, split: Split, scene: WordPicture) -> QA | None:
    x, y = scene.box.middle
    place = place_name(x / scene.size[0], y / scene.size[1])
    if place is None:
        return None
    return QA(ask(rng, split, "place"), answer("place", at=at(place)), "place", at(place))


def _spelling(rng: Random, split: Split, scene: WordPicture) -> list[QA]:
    """First and last letter, number of letters: of single words."""
    if len(scene.words) > 1:
        return []
    text = scene.text
    made = [
        QA(ask(rng, split, kind), answer(kind, text=quoted(letter)), kind, quoted(letter))
        for kind, letter in (("first_letter", text[0]), ("last_letter", text[-1]))
    ]
    if text.isalpha():
        made.append(_letters(rng, split, text))
    return [rng.choice(made)]
