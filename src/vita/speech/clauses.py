"""Cut a text that arrives in pieces into clauses that are spoken one by one.

A cut depends on the text alone, never on how it was cut into deltas: a candidate is decided once the few characters
after it that matter are known, in order of position. Sentences end where `sentencex` says so; Chinese ones at their own
punctuation. Long sentences are cut at commas, the first of an answer soonest, so that the first audio is early and the
next clause is ready before the one before has ended.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate

from vita.speech.language import CJK_START

# Width in Latin characters of a clause that may end at a comma, and of one that must end: first, second, later clauses.
AT_COMMA = (24, 60, 120)
AT_MOST = (90, 160, 260)
LINE_START = 8  # characters that tell what a line begins with
FENCE_LINE = 70  # most characters of a line that opens a block of code
STRAY = 80  # characters after which a bracket, backtick or dollar sign counts as one that nothing closes
HEADING_PAUSE, PARAGRAPH_PAUSE, ITEM_PAUSE = 0.4, 0.35, 0.2  # seconds at speed 1, on top of the punctuation's

_CLOSERS = r"[\"'”’)\]}»」』）】》*_`~]*"
_CANDIDATE = re.compile(
    rf"(?P<line>\n)|(?P<chinese>[。！？]+{_CLOSERS})|(?P<end>[.!?…]+{_CLOSERS})"
    rf"|(?P<chinese_comma>[，；：、]+{_CLOSERS})|(?P<comma>[,;:—–|]+{_CLOSERS}|(?<= )-(?= ))"
)
_FENCE = re.compile(r"(`{3,8}|~{3,8})([^`~\n]{0,60})\n")
_HARD_LINE = re.compile(r"#{1,6}[ \t]|\|")  # a heading or a row of a table: the line is a block
_MARKER = re.compile(r"(?:[-*+•][ \t]+|[0-9]{1,3}[.)][ \t]+|>[ \t]*)+")
_BLOCK = re.compile(r"#{1,6}[ \t]|\||[-*+•][ \t]|[0-9]{1,3}[.)][ \t]|>|`{3}|~{3}|-{3}|={3}|\*{3}|_{3}")
_BLANK = re.compile(r"[ \t]*\r?\n")
_PAIRED = re.compile(r"\\[()\[\]]|\$\$|(?<!\\)\$|[\[\]`]")  # marks of links, inline code and formulas
_INTERVAL = re.compile(r"\[[^\[\]()]{0,40},[^\[\]()]{0,40}\)")  # half open, as in "[0, 1)"
_FORMULA = re.compile(r"(?![\d\s]|[A-Za-z_]{2,}(?:[\s,.;:!?)]|\Z))")  # after "$": no amount, ticker or variable
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Clause:
    """What is spoken at once.

    Attributes:
        text: as in the answer; for code the name of its language, which may be empty.
        start, end: its characters in the answer.
        code: it stands for a block of code, which is announced and not read.
        pause: seconds of silence after it, at speed 1, on top of the voice's own.
    """

    text: str
    start: int
    end: int
    code: bool = False
    pause: float = 0.0


class ClauseSplitter:
    """State of one answer: text goes in by `feed`, clauses come out as soon as their end is known."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the text; the next character is the first of another answer."""
        self._text = ""  # not yet given out
        self._position = 0  # of its first character in the answer
        self._count = 0  # clauses given out
        self._at_line_start = True
        self._fence = ""  # that opened the block of code

    def feed(self, text: str) -> list[Clause]:
        """Add text, and take the clauses that it completes."""
        self._text += text
        return self._take(final=False)

    def finish(self) -> list[Clause]:
        """The text has ended: take the rest."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> list[Clause]:
        clauses: list[Clause] = []
        while self._skip(final=final):
            clause = self._code() if self._fence else self._next(final=final)
            if clause is None:
                break
            self._drop(clause.end - self._position)
            self._count += 1
            clauses.append(clause)
        return clauses

    def _drop(self, count: int) -> None:
        self._text, self._position = self._text[count:], self._position + count

    def _skip(self, *, final: bool) -> bool:
        """Drop code and white space before the next clause; False if there is nothing else yet."""
        if self._fence:
            end = "\\Z" if final else "(?!)"
            closed = re.search(rf"(?:^|\n)[ \t]*{self._fence}{self._fence[0]}*[ \t]*\r?(?:\n|{end})", self._text)
            if closed is None:
                self._drop(len(self._text) if final else self._text.rfind("\n") + 1 if "\n" in self._text else 0)
                return False
            self._drop(closed.end())
            self._fence, self._at_line_start = "", True
        blank = len(self._text) - len(self._text.lstrip())
        self._at_line_start |= "\n" in self._text[:blank]
        self._drop(blank)
        if self._at_line_start:
            fence = _FENCE.match(self._text)
            if fence is not None:
                self._fence = fence[1]
        return bool(self._text)

    def _code(self) -> Clause:
        """Announce the code whose first line is complete."""
        opened = _FENCE.match(self._text)
        if opened is None:
            raise AssertionError("a fence is recognised by its first line")
        return Clause(
            opened[2].strip(), self._position, self._position + opened.end(), code=True, pause=PARAGRAPH_PAUSE
        )

    def _next(self, *, final: bool) -> Clause | None:
        """The next clause of prose; None if its end is not known yet."""
        text = self._text
        start = hard_line = 0
        if self._at_line_start:
            if not final and not _line_start_known(text):
                return None
            fence = text.startswith(("```", "~~~")) and "\n" not in text and len(text) < FENCE_LINE
            if fence and not final:
                return None  # perhaps the first line of a block of code
            hard_line = _HARD_LINE.match(text) is not None
            marker = _MARKER.match(text)
            start = marker.end() if marker else 0
        widths = list(accumulate(3 if ord(c) >= CJK_START else 1 for c in text[: AT_MOST[-1] + LINE_START]))
        step = min(self._count, len(AT_COMMA) - 1)
        at_comma, at_most = AT_COMMA[step], AT_MOST[step]
        longest = next((n for n, width in enumerate(widths) if width > at_most), None)
        for found in _CANDIDATE.finditer(text, start, len(text) if longest is None else longest + 1):
            if longest is not None and found.end() > longest:
                break
            end = found.end()
            if found["line"]:
                pause = self._line_end(text, end, bool(hard_line), final=final)
                if pause is None:
                    return None
                if pause:
                    return self._clause(found.start(), pause if not start else max(pause, ITEM_PAUSE))
                if widths[found.start()] >= at_comma and _balanced(text[:end]):
                    return self._clause(found.start())
                continue
            if end == len(text) and not final:
                return None  # more of the punctuation may follow
            if found["chinese"] or found["end"]:
                decided = bool(found["chinese"]) or _ends_sentence(text, found, final=final)
            else:
                decided = widths[end - 1] >= at_comma and _ends_clause(text, found, final=final)
            if decided is None:
                return None
            if decided and _balanced(text[:end]):
                return self._clause(end)
        if longest is not None:
            return self._clause(_last_break(text, start, longest))
        return self._clause(len(text.rstrip())) if final else None

    def _line_end(self, text: str, end: int, hard: bool, *, final: bool) -> float | None:
        """The pause after a line: 0 if the paragraph goes on; None if that is not known yet."""
        if hard:
            return HEADING_PAUSE
        rest = text[end:]
        if not final and not _BLANK.match(rest) and not _line_start_known(rest.lstrip(" \t")):
            return None
        if _BLANK.match(rest) or not rest.strip():
            return PARAGRAPH_PAUSE
        return ITEM_PAUSE if _BLOCK.match(rest.lstrip(" \t")) else 0.0

    def _clause(self, end: int, pause: float = 0.0) -> Clause:
        self._at_line_start = False  # `_skip` sees the line feed, if one follows
        return Clause(self._text[:end].rstrip(), self._position, self._position + end, pause=pause)


def _line_start_known(text: str) -> bool:
    return len(text) >= LINE_START or "\n" in text


def _ends_sentence(text: str, found: re.Match[str], *, final: bool) -> bool | None:
    """Whether a full stop ends a sentence; None if the next word has not begun."""
    end = found.end()
    if end == len(text):
        return True
    if _CJK.match(text[end]):
        return bool(_CJK.match(text[found.start() - 1 : found.start()]))
    if not text[end].isspace():
        return False
    following = end
    while following < len(text) and text[following].isspace():
        following += 1
    if following == len(text):
        return True if final or text.count("\n", end) > 1 else None
    if "\n" in text[end:following]:
        return True
    import sentencex

    first = text[following] if text[following].isalnum() else "A"  # a quote or bracket: a sentence may begin in it
    boundaries = sentencex.get_sentence_boundaries("en", text[:following] + first)
    return any(end <= boundary["end_index"] <= following for boundary in boundaries)


def _ends_clause(text: str, found: re.Match[str], *, final: bool) -> bool | None:
    """Whether a comma may end a clause: not between two digits; None if what follows is not known."""
    end = found.end()
    rest = text[end:]
    if found["comma"] and rest and not rest[0].isspace():
        return bool(_CJK.match(rest[0]))
    rest = rest.lstrip()
    if not rest:
        return False if final else None
    before = text[: found.start()].rstrip()[-1:]
    return not (before.isdigit() and (rest[0].isdigit() or found["comma"] == ":"))


def _balanced(text: str) -> bool:
    """Whether no link, inline code or formula is open."""
    opened: dict[str, list[int]] = {"[": [], "`": [], "$": [], "$$": [], "\\": []}
    for found in _PAIRED.finditer(_INTERVAL.sub(lambda found: "_" * len(found[0]), text)):
        mark = found[0]
        if mark in ("[", "\\(", "\\["):
            opened[mark[0]].append(found.start())
        elif mark in ("]", "\\)", "\\]"):
            del opened["[" if mark == "]" else "\\"][-1:]
        elif opened[mark]:
            opened[mark].clear()
        elif mark != "$" or _FORMULA.match(text, found.end()):
            opened[mark].append(found.start())
    if opened["$$"] or opened["\\"] or re.search(r"\]\([^)\s]*$", text):
        return False
    # A mark that nothing closes, as in "press [", would keep all clauses from ending.
    return max((place for mark in "[`$" for place in opened[mark]), default=-STRAY) <= len(text) - STRAY


def _last_break(text: str, start: int, longest: int) -> int:
    """The last white space before `longest` that no digit touches; `longest` if there is none."""
    for position in range(longest - 1, max(start, longest // 2), -1):
        if text[position].isspace() and not (text[position - 1].isdigit() or text[position + 1].isdigit()):
            return position
    return longest
