"""The conversation template `qwen2p5_instruct` (spec section 2).

Owns the three system texts, the order of parts inside a turn, and the ids of a whole conversation with a slot
for every picture tile, video frame and sound. Does not know what a picture looks like: only how many slots it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vita.prompt.tokenizer import Tokenizer
from vita.types import Role

IMAGE_PLACEHOLDER = -200
AUDIO_PLACEHOLDER = -500

Modality = Literal["image", "video", "lang"]

_COMMON = (
    "You are an AI robot and your name is VITA. \n"
    "- You are a multimodal large language model developed by the open source community. "
    "Your aim is to be helpful, honest and harmless. \n"
    "- You support the ability to communicate fluently and answer user questions in multiple languages "
    "of the user's choice. \n"
    "- If the user corrects the wrong answer you generated, you will apologize and discuss the correct answer "
    "with the user."
)
_SEEING = (
    " \n- You must answer the question strictly according to the content of the {it} given by the user, and it is "
    "strictly forbidden to answer the question without the content of the {it}. Please note that you are seeing "
    "the {it}, not the {other}."
)
SYSTEM: dict[Modality, str] = {
    "image": _COMMON + _SEEING.format(it="image", other="video"),
    "video": _COMMON + _SEEING.format(it="video", other="image"),
    "lang": _COMMON,
}


@dataclass(frozen=True)
class Placeholders:
    """Places for media inside a turn: tiles of a picture, frames of a video, or one sound."""

    kind: Literal["image", "video", "audio"]
    count: int = 1


Piece = str | Placeholders


@dataclass(frozen=True)
class Turn:
    """One message, media already counted."""

    role: Role
    pieces: tuple[Piece, ...]


def choose_modality(turns: Sequence[Turn]) -> Modality:
    """Video if the conversation shows any, else image, else lang."""
    kinds = {p.kind for t in turns for p in t.pieces if isinstance(p, Placeholders) and p.count}
    return "video" if "video" in kinds else "image" if "image" in kinds else "lang"


def layout(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces of one turn with the newlines the model was trained on.

    Neighbouring visual slots stand together, and a single newline parts them from what follows; so do texts and
    sounds from each other.
    """
    out: list[Piece] = []
    previous: Piece | None = None
    for piece in pieces:
        together = (
            isinstance(previous, Placeholders)
            and isinstance(piece, Placeholders)
            and _visual(previous)
            and _visual(piece)
        )
        if previous is not None and not together:
            out.append("\n")
        out.append(piece)
        previous = piece
    return out


def render(turns: Sequence[Turn], tokenizer: Tokenizer, *, system: str | None = None) -> list[int]:
    """Ids of a whole conversation, ending with the open assistant header.

    Args:
        turns: user and assistant turns in order, without a system turn.
        tokenizer: the checkpoint's.
        system: replaces the built-in text of the modality.

    Returns:
        token ids with -200 for each tile or frame and -500 for each sound. Text between two special tokens or
        slots is encoded as one piece, exactly as the reference cuts it.
    """
    text = SYSTEM[choose_modality(turns)] if system is None else system
    items: list[int | str] = [tokenizer.im_start, f"system\n{text}", tokenizer.im_end, "\n"]
    for turn in turns:
        items += [tokenizer.im_start, f"{turn.role}\n"]
        for piece in layout(turn.pieces):
            if isinstance(piece, str):
                items.append(piece)
            else:
                items += [AUDIO_PLACEHOLDER if piece.kind == "audio" else IMAGE_PLACEHOLDER] * piece.count
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


def _visual(slots: Placeholders) -> bool:
    return slots.kind != "audio"


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
