"""What an answer looks at before it answers: the text between `<think>` and `</think>`, and the visible rest.

Owns the one form in which a look is written. The data functions write `I see a red star (1): there is 1 star.`; here it
becomes `<think>a red star (1)</think>There is 1 star.` Does not know tokens.
"""

from __future__ import annotations

import re

from recipes.nano.data.labels import capital, small

THINK, END_THINK = "<think>", "</think>"
MARKS = "☜☞☟"  # response states, which stand before the look
# A colon after one of these ends a look; so does one after a list whose items are counted or quoted. All other colons
# ("The image shows 2 shapes: ...", "I hear: ...") belong to the answer. On the right is what a look keeps of its head.
_HEADS = {"I see ": "", "It says ": "", "First the ": "first the "}
_COUNTED = re.compile(r" \(\d\)")
QUOTED = re.compile(r"(?<!\w)'(?:[^'\n]|'(?=\w))*'(?!\w)")


def split(text: str) -> tuple[str, str]:
    """The look and the visible answer of a text in either form; the look is empty if there is none.

    A look that never ends leaves nothing visible.
    """
    mark = text[:1] if text[:1] and text[0] in MARKS else ""
    rest = text[len(mark) :]
    if THINK in rest:
        before, _, inner = rest.partition(THINK)
        look, _, answer = inner.partition(END_THINK)
        return look, mark + before + answer
    bare = QUOTED.sub(lambda found: "_" * len(found[0]), rest)  # a colon in a quoted text ends nothing
    end = bare.rfind(": ")
    if end < 0:
        return "", text
    look, answer = rest[:end], rest[end + 2 :]
    for head, left in _HEADS.items():
        if look.startswith(head):
            return left + look.removeprefix(head), mark + capital(answer)
    if _COUNTED.search(bare[:end]) or look[0] == "'":
        return small(look), mark + capital(answer)
    return "", text


def joined(look: str, answer: str) -> str:
    """The text of an answer with its look, which stands behind the mark; without one just the answer."""
    if not look:
        return answer
    mark = answer[:1] if answer[:1] and answer[0] in MARKS else ""
    return f"{mark}{THINK}{look}{END_THINK}{answer[len(mark) :]}"


def looked(text: str) -> str:
    """An answer as it is taught: its look between the think tokens."""
    return joined(*split(text))


def visible(text: str) -> str:
    """What a user sees of an answer; nothing of a look."""
    return split(text)[1]


def endless(text: str) -> bool:
    """Whether a look began and never ended."""
    return THINK in text and END_THINK not in text
