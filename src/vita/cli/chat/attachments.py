"""Media that go with the next question: decoded when they are attached, described in one line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vita.errors import MediaError, RequestError
from vita.media.animation import open_animation
from vita.media.source import read_source, resolve_source
from vita.media.suffixes import Kind
from vita.prompt.processor import merge_turns
from vita.prompt.template import Media
from vita.prompt.turn_reader import PreparedTurn
from vita.sources import FilePath, describe_source
from vita.types import MediaOptions, Message, Video, user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vita.engine.session import Session

ORDER: tuple[Kind, ...] = ("image", "video", "audio")
MAY_MOVE = {".gif", ".webp", ".apng"}  # suffixes of images that may be animations


@dataclass(frozen=True)
class Attachment:
    """One decoded file.

    Attributes:
        kind: image, video or audio.
        path: as the user named it.
        turn: a user's turn that holds nothing else.
        notes: what is wrong with the file, as sentences.
    """

    kind: Kind
    path: str
    turn: PreparedTurn
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line: the name, the kind, and its size, tiles, frames or seconds."""
        (media,) = [piece for piece in self.turn.pieces if isinstance(piece, Media)]
        facts = [f"{media.seconds:.1f} s"] if self.kind != "image" else []
        if self.kind != "audio":
            count = len(media.spans)
            what = "tile" if self.kind == "image" else "frame"
            facts += [f"{media.width} x {media.height} pixels", f"{count} {what}{'s' * (count != 1)}"]
        return ", ".join([f"{describe_source(self.path)}: {self.kind}", *facts])


@dataclass(frozen=True)
class MediaReader:
    """Reads files as the flags of the command line say.

    Attributes:
        fps: frames taken from each second of a video.
        max_frames: most frames taken from a video.
        options: how media are read.
    """

    fps: float
    max_frames: int
    options: MediaOptions

    def check(self, kind: Kind, path: str) -> None:
        """Refuse a file that cannot be opened, before a model is loaded. URLs and named pipes are read later.

        Raises:
            MediaError, RequestError: as `read`.
        """
        refuse_stdin(path)
        source = resolve_source(path, kind)
        if isinstance(source, FilePath) and not _is_pipe(source.path):
            read_source(source, self.options, kind)

    def read(self, kind: Kind, path: str, session: Session) -> Attachment:
        """Decode a file.

        Raises:
            MediaError: a file that cannot be used.
            RequestError: standard input, or a kind of media that the model was not trained on.
        """
        refuse_stdin(path)
        turn = session.prepare(self._message(kind, path))
        return Attachment(kind, path, replace(turn, notes=()), turn.notes)

    def kind_of_file(self, kind: Kind | None, path: str) -> Kind:
        """What a dropped file is: an animated image is a video.

        Args:
            kind: what its suffix says; None: nothing.
            path: of the file.

        Raises:
            MediaError: a folder, or a file whose name does not tell what it is.
        """
        source = resolve_source(path, kind or "image")
        if kind is None:
            if isinstance(source, FilePath):
                read_source(source, self.options, "image")
            raise MediaError(
                "the name does not say what it is", where=describe_source(path),
                fix="write /image, /video or /audio before it",
            )  # fmt: skip
        if kind == "image" and isinstance(source, FilePath) and source.path.suffix.lower() in MAY_MOVE:
            try:
                animation = open_animation(read_source(source, self.options, "image"), self.options)
            except MediaError:  # a still image, or a damaged one, of which `read` tells
                return "image"
            return "image" if animation is None else "video"
        return kind

    def _message(self, kind: Kind, path: str) -> Message:
        if kind == "image":
            return user(image=path)
        return user(video=Video(path, self.fps, self.max_frames)) if kind == "video" else user(audio=path)


def refuse_stdin(path: str) -> None:
    """Standard input is the conversation.

    Raises:
        RequestError: the path stands for standard input.
    """
    if path == "-":
        raise RequestError("standard input is the conversation", where="-", fix="name a file")


def build_turn(attachments: Sequence[Attachment], question: str) -> PreparedTurn:
    """A user's turn in the order that the model was trained on: images, videos, the text, audio.

    Args:
        attachments: at least one, if the question is empty.
        question: typed text.
    """
    turns = [item.turn for kind in ORDER[:2] for item in attachments if item.kind == kind]
    if question:
        turns.append(PreparedTurn("user", (question,)))
    turns += [item.turn for item in attachments if item.kind == "audio"]
    (turn,) = merge_turns(turns)
    return turn


def count_kinds(attachments: Sequence[Attachment]) -> str:
    """What is attached, as in "image" or "2 images, audio"."""
    counts = {kind: sum(item.kind == kind for item in attachments) for kind in ORDER}
    return ", ".join(
        kind if count == 1 else f"{count} {kind}s" if kind != "audio" else f"{count} audio clips"
        for kind, count in counts.items()
        if count
    )


def _is_pipe(path: Path) -> bool:
    try:
        return path.expanduser().is_fifo()
    except (OSError, ValueError, RuntimeError):
        return False
