"""The conversation template `qwen2p5_instruct` (spec section 2).

Holds the three system texts and the order of parts inside a turn. A conversation becomes token ids with one
placeholder for each image tile, video frame and audio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vita.errors import RequestError
from vita.prompt.tokenizer import Tokenizer
from vita.types import Role

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
class Placeholders:
    """Media inside a turn: `count` tiles of an image, frames of a video, or one audio."""

    kind: Literal["image", "video", "audio"]
    count: int = 1


Piece = str | Placeholders


@dataclass(frozen=True)
class Turn:
    """One message with its media as placeholders."""

    role: Role
    pieces: tuple[Piece, ...]


def choose_modality(turns: Sequence[Turn]) -> Modality:
    """`video` if the conversation holds a video, else `image` if it holds an image, else `lang`."""
    kinds = {p.kind for t in turns for p in t.pieces if isinstance(p, Placeholders) and p.count}
    return "video" if "video" in kinds else "image" if "image" in kinds else "lang"


def layout(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces of one turn with the newlines the model was trained on.

    One newline separates neighbouring pieces, except neighbouring images and videos.
    """
    out: list[Piece] = []
    previous: Piece | None = None
    for piece in pieces:
        if previous is not None and not (_is_visual(previous) and _is_visual(piece)):
            out.append("\n")
        out.append(piece)
        previous = piece
    return out


def render(turns: Sequence[Turn], tokenizer: Tokenizer, *, system: str | None = None) -> list[int]:
    """Ids of a conversation, ending with the open assistant header.

    Args:
        turns: user and assistant turns in order, without a system turn.
        tokenizer: the checkpoint's.
        system: replaces the built-in text of the modality.

    Returns:
        Token ids with -200 for each tile or frame and -500 for each audio. Text between two special tokens or
        placeholders is encoded as one piece, as in the reference.

    Raises:
        RequestError: a text is not a `str`.
    """
    text = SYSTEM[choose_modality(turns)] if system is None else system
    items: list[int | str] = [tokenizer.im_start, "system\n" + _text(text, "the system text"), tokenizer.im_end, "\n"]
    for turn in turns:
        items += [tokenizer.im_start, f"{turn.role}\n"]
        for piece in layout(turn.pieces):
            if isinstance(piece, Placeholders):
                items += [AUDIO_PLACEHOLDER if piece.kind == "audio" else IMAGE_PLACEHOLDER] * piece.count
            else:
                items.append(_text(piece, f"the {turn.role}'s text"))
        items += [tokenizer.im_end, "\n"]
    items += [tokenizer.im_start, "assistant\n"]
    return _encode(items, tokenizer)


def _encode(items: Sequence[int | str], tokenizer: Tokenizer) -> list[int]:
    ids: list[int] = []
    text = ""
    for item in items:
        if isinstance(item, str):
            text += item
            continue
        ids += tokenizer.encode(text) if text else []
        text = ""
        ids.append(item)
    return ids + (tokenizer.encode(text) if text else [])


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{what} must be a str, not {type(value).__name__}")
    return value


def _is_visual(piece: Piece) -> bool:
    return isinstance(piece, Placeholders) and piece.kind != "audio"


def ids_of_reference_prompt(prompt: str, tokenizer: Tokenizer, *, audio: bool) -> list[int]:
    """Ids of a prompt text that holds written-out template tokens and placeholders (`vita verify`).

    Args:
        prompt: the text.
        tokenizer: the checkpoint's.
        audio: whether the conversation has audio; without it `<audio>` is ordinary text.
    """
    ids: list[int] = []
    rest = prompt
    placeholders = {"<image>": IMAGE_PLACEHOLDER} | ({"<audio>": AUDIO_PLACEHOLDER} if audio else {})
    while rest:
        hits = [(rest.find(tag), tag) for tag in placeholders if tag in rest]
        at, tag = min(hits) if hits else (len(rest), "")
        ids += tokenizer.encode_with_specials(rest[:at]) if at else []
        if tag:
            ids.append(placeholders[tag])
        rest = rest[at + len(tag) :]
    return ids
