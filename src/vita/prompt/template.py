"""The conversation template `qwen2p5_instruct` (spec section 2): turns to prompt spans.

The three system texts, the order of parts inside a turn, and the spans of a whole conversation: token ids, and a
`MediaSpan` for every image tile, video frame and audio clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from vita.errors import RequestError
from vita.prompt.tokenizer import Tokenizer
from vita.types import MediaSpan, Role, Span, TextSpan

# Ids of the reference implementation that stand for an image tile or video frame, and for an audio clip.
IMAGE_PLACEHOLDER = -200
AUDIO_PLACEHOLDER = -500

Modality = Literal["image", "video", "lang"]

_SYSTEM_TEXT = (
    "You are an AI robot and your name is VITA. \n"
    "- You are a multimodal large language model developed by the open source community. "
    "Your aim is to be helpful, honest and harmless. \n"
    "- You support the ability to communicate fluently and answer user questions in multiple languages "
    "of the user's choice. \n"
    "- If the user corrects the wrong answer you generated, you will apologize and discuss the correct answer "
    "with the user."
)
_VISUAL_TEXT = (
    " \n- You must answer the question strictly according to the content of the {it} given by the user, and it is "
    "strictly forbidden to answer the question without the content of the {it}. Please note that you are seeing "
    "the {it}, not the {other}."
)
SYSTEM: dict[Modality, str] = {
    "image": _SYSTEM_TEXT + _VISUAL_TEXT.format(it="image", other="video"),
    "video": _SYSTEM_TEXT + _VISUAL_TEXT.format(it="video", other="image"),
    "lang": _SYSTEM_TEXT,
}


@dataclass(frozen=True)
class Media:
    """An image, a video or an audio clip inside a turn.

    Attributes:
        kind: image, video or audio.
        spans: of its tiles, its frames, or of the clip.
        width, height: of the image or video in pixels, before it is cut into tiles; 0 for audio.
        seconds: length of the video or audio; 0 for an image.
    """

    kind: Literal["image", "video", "audio"]
    spans: tuple[MediaSpan, ...]
    width: int = 0
    height: int = 0
    seconds: float = 0.0


Piece = str | Media


@dataclass(frozen=True)
class Turn:
    """One message with its media decoded."""

    role: Role
    pieces: tuple[Piece, ...]


def choose_modality(turns: Sequence[Turn]) -> Modality:
    """Video if the conversation shows any, else image, else lang."""
    kinds = {p.kind for t in turns for p in t.pieces if isinstance(p, Media) and p.spans}
    return "video" if "video" in kinds else "image" if "image" in kinds else "lang"


def layout(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces of one turn with the newlines the model was trained on.

    Neighbouring images and videos stand together. A newline separates them from what follows, and texts and audio from
    each other.
    """
    out: list[Piece] = []
    previous: Piece | None = None
    for piece in pieces:
        if previous is not None and not (_is_visual(previous) and _is_visual(piece)):
            out.append("\n")
        out.append(piece)
        previous = piece
    return out


def render(turns: Sequence[Turn], tokenizer: Tokenizer, *, system: str | None = None) -> list[Span]:
    """Spans of a whole conversation, ending with the open assistant header.

    Args:
        turns: user and assistant turns in order, without a system turn.
        tokenizer: the checkpoint's.
        system: replaces the built-in text of the modality.

    Returns:
        Spans in which no two `TextSpan` are neighbours. Text between two special tokens or media is encoded as one
        piece, as the reference cuts it.

    Raises:
        RequestError: a text is not a `str`.
    """
    text = SYSTEM[choose_modality(turns)] if system is None else system
    items: list[int | str | MediaSpan] = [
        tokenizer.im_start,
        "system\n" + check_text(text, "the system text"),
        tokenizer.im_end,
        "\n",
    ]
    for turn in turns:
        items += [tokenizer.im_start, f"{turn.role}\n"]
        for piece in layout(turn.pieces):
            if isinstance(piece, Media):
                items += piece.spans
            else:
                items.append(check_text(piece, f"the {turn.role}'s text"))
        items += [tokenizer.im_end, "\n"]
    items += [tokenizer.im_start, "assistant\n"]
    return _encode(items, tokenizer)


def check_text(value: object, what: str) -> str:
    """The value itself.

    Raises:
        RequestError: it is not a `str`.
    """
    if not isinstance(value, str):
        raise RequestError(f"{what} must be a str, not {type(value).__name__}")
    return value


def _encode(items: Iterable[int | str | MediaSpan], tokenizer: Tokenizer) -> list[Span]:
    spans: list[Span] = []
    ids: list[int] = []
    text = ""
    for item in (*items, None):
        if isinstance(item, str):
            text += item
            continue
        if text:
            ids += tokenizer.encode(text)
            text = ""
        if isinstance(item, int):
            ids.append(item)
            continue
        if ids:
            spans.append(TextSpan(tuple(ids)))
            ids = []
        if item is not None:
            spans.append(item)
    return spans


def _is_visual(piece: Piece) -> bool:
    return isinstance(piece, Media) and piece.kind != "audio"


def placeholder_ids(spans: Iterable[Span]) -> list[int]:
    """Ids as the reference writes them: one placeholder for every image tile, video frame and audio clip."""
    ids: list[int] = []
    for span in spans:
        if isinstance(span, TextSpan):
            ids += span.ids
        else:
            ids.append(IMAGE_PLACEHOLDER if span.kind == "image" else AUDIO_PLACEHOLDER)
    return ids


def spans_of_ids(ids: Iterable[int], media: Iterable[MediaSpan]) -> list[Span]:
    """The reverse of `placeholder_ids`.

    Args:
        ids: with placeholders.
        media: one for every placeholder, in order within each kind.

    Raises:
        ValueError: placeholders and media do not pair up.
    """
    by_kind: dict[int, list[MediaSpan]] = {IMAGE_PLACEHOLDER: [], AUDIO_PLACEHOLDER: []}
    for span in media:
        by_kind[IMAGE_PLACEHOLDER if span.kind == "image" else AUDIO_PLACEHOLDER].append(span)
    waiting = {placeholder: iter(spans) for placeholder, spans in by_kind.items()}
    spans: list[Span] = []
    run: list[int] = []
    for token in (*ids, None):
        if token is not None and token not in waiting:
            run.append(token)
            continue
        if run:
            spans.append(TextSpan(tuple(run)))
            run = []
        if token is not None:
            found = next(waiting[token], None)
            if found is None:
                raise ValueError(f"more placeholders {token} than media")
            spans.append(found)
    if any(next(rest, None) is not None for rest in waiting.values()):
        raise ValueError("more media than placeholders")
    return spans


def ids_of_reference_prompt(prompt: str, tokenizer: Tokenizer, *, audio: bool) -> list[int]:
    """Ids of a prompt text that already holds template tokens and literal placeholders (`vita verify`).

    Args:
        prompt: the whole text.
        tokenizer: the checkpoint's.
        audio: whether the conversation has sound; without it `<audio>` is ordinary text.
    """
    ids: list[int] = []
    rest = prompt
    slots = {"<image>": IMAGE_PLACEHOLDER} | ({"<audio>": AUDIO_PLACEHOLDER} if audio else {})
    while rest:
        hits = [(rest.find(tag), tag) for tag in slots if tag in rest]
        at, tag = min(hits) if hits else (len(rest), "")
        ids += tokenizer.encode_with_specials(rest[:at]) if at else []
        if tag:
            ids.append(slots[tag])
        rest = rest[at + len(tag) :]
    return ids
