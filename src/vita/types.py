"""Messages, media sources and request parameters of the public API."""

from __future__ import annotations

import numbers
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, TypeGuard, TypeVar

from vita.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as Pillow


@dataclass(frozen=True)
class FilePath:
    """A file on this machine."""

    path: Path


@dataclass(frozen=True)
class Url:
    """An http or https address."""

    url: str


@dataclass(frozen=True)
class Bytes:
    """An encoded file in memory; `name` stands for it in error sentences."""

    data: bytes
    name: str = ""


@dataclass(frozen=True)
class Array:
    """Decoded pixels or samples: a NumPy array or a PIL image; `name` stands for it in error sentences."""

    values: np.ndarray[Any, Any] | Pillow.Image
    name: str = ""


# What a caller may pass. A `str` is a path, an http(s), data: or file: URL, or "-" for standard input;
# `vita.media.source.resolve_source` is the one place that decides which.
Source: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | np.ndarray[Any, Any] | Pillow.Image"
    " | FilePath | Url | Bytes | Array"
)
Frames: TypeAlias = "list[Source] | tuple[Source, ...]"  # images taken as the frames of a video


@dataclass(frozen=True)
class Text:
    """Text of the user or the model. It is literal: special tokens and placeholders in it are not parsed."""

    text: str


@dataclass(frozen=True)
class Image:
    """One image. An array is uint8 `[height, width, 3 or 4]` or `[height, width]`.

    Raises:
        RequestError: the source is of another type.
    """

    source: Source

    def __post_init__(self) -> None:
        _check_source(self.source, "an image")


@dataclass(frozen=True)
class Video:
    """One video, or a list of images taken as its frames.

    Attributes:
        source: the file; a list or tuple of images, or an array uint8 `[frames, height, width, 3]`.
        fps: frames sampled per second of video.
        max_frames: most frames the model sees.
        start, end: of the part to look at, in seconds; None: the whole video.

    Raises:
        RequestError: the source or a number is of another type.
    """

    source: Source | Frames
    fps: float = 1.0
    max_frames: int = 16
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.source, (list, tuple)):
            for frame in self.source:
                _check_source(frame, "a frame of a video")
        else:
            _check_source(self.source, "a video")
        _check_number(self.fps, "fps")
        _check_number(self.max_frames, "max_frames", integer=True)
        for name in ("start", "end"):
            if getattr(self, name) is not None:
                _check_number(getattr(self, name), name)


@dataclass(frozen=True)
class Audio:
    """One audio clip. An array is float or int16 `[samples]` or `[samples, channels]` with `sample_rate` in Hz.

    Attributes:
        source: the file or array.
        sample_rate: in Hz, of an array.
        from_video: the source is a video whose audio track is wanted.

    Raises:
        RequestError: the source or the rate is of another type.
    """

    source: Source
    sample_rate: int | None = None
    from_video: bool = False

    def __post_init__(self) -> None:
        _check_source(self.source, "an audio clip")
        if self.sample_rate is not None:
            _check_number(self.sample_rate, "sample_rate")


Part: TypeAlias = Text | Image | Video | Audio
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: its parts in reading order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """Its text parts, joined by newlines."""
        return "\n".join(p.text for p in self.parts if isinstance(p, Text))


def user(
    text: str | None = None,
    *,
    image: Source | Image | None = None,
    images: Iterable[Source | Image] | Source | Image = (),
    video: Source | Frames | Video | None = None,
    videos: Iterable[Source | Frames | Video] | Source | Video = (),
    audio: Source | Audio | None = None,
    audios: Iterable[Source | Audio] | Source | Audio = (),
) -> Message:
    """A user turn: images, then videos, then the text, then speech (the order the model was trained on).

    A single source passed as `images`, `videos` or `audios` counts as a list of one.

    Raises:
        RequestError: an argument is of a type that cannot be used.
    """
    if text is not None and not isinstance(text, str):
        raise RequestError(f"a {type(text).__name__} is not a question", where="text", fix="pass a str")
    parts: list[Part] = []
    for source in ([] if image is None else [image]) + _as_list(images, "images", array_dims=3):
        parts.append(source if isinstance(source, Image) else Image(source))
    for source in ([] if video is None else [video]) + _as_list(videos, "videos", array_dims=4):
        parts.append(source if isinstance(source, Video) else Video(source))
    if text is not None and text != "":
        parts.append(Text(text))
    for source in ([] if audio is None else [audio]) + _as_list(audios, "audios", array_dims=2):
        parts.append(source if isinstance(source, Audio) else Audio(source))
    return Message("user", tuple(parts))


def assistant(text: str) -> Message:
    """An earlier answer of the model."""
    return Message("assistant", (Text(text),))


def system(text: str) -> Message:
    """A system message, which replaces the built-in system text; only valid as the first message."""
    return Message("system", (Text(text),))


@dataclass(frozen=True)
class MediaPolicy:
    """What a surface accepts as media, and how much of it.

    Attributes:
        allow_files: local paths, file: URLs and standard input may be read. A server sets this to False.
        allow_urls: http(s) URLs may be fetched. data: URLs are not fetched and always allowed.
        domains: hosts that URLs may name, with all their subdomains; None: every public host.
        allow_private_hosts: URLs may lead to this machine and to private networks. Link-local addresses (cloud
            metadata), multicast and reserved ones are refused even so.
        max_bytes: largest file, download or in-memory source, in bytes.
        max_pixels: largest image or video frame, in pixels.
        max_seconds: longest audio, in seconds.
        deadline: longest time to read and decode the media of one request, downloads included, in seconds.

    Raises:
        RequestError: a limit is not a positive number, or `domains` holds something other than host names.
    """

    allow_files: bool = True
    allow_urls: bool = True
    domains: tuple[str, ...] | None = None
    allow_private_hosts: bool = False
    max_bytes: int = 256 << 20
    max_pixels: int = 120_000_000
    max_seconds: float = 3600.0
    deadline: float = 300.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_seconds", "deadline"):
            value = getattr(self, name)
            _check_number(value, name)
            if not value > 0:
                raise RequestError(f"must be more than 0, not {value}", where=name)
        if self.domains is None:
            return
        domains = (self.domains,) if isinstance(self.domains, str) else tuple(self.domains)
        if not all(isinstance(d, str) and d.strip(". ") and "/" not in d for d in domains):
            raise RequestError(f"must be host names, not {domains}", where="domains", fix='pass ("example.com",)')
        object.__setattr__(self, "domains", tuple(d.strip(". ").lower() for d in domains))


@dataclass(frozen=True)
class MediaOptions:
    """How media are read.

    Attributes:
        reference: read as the reference implementation does, for parity: no EXIF rotation, alpha dropped, left channel
            only, the specification's own resampler.
        max_tiles: the most square tiles an image is cut into, 1 to 12, the thumbnail not counted. With 1 an image is
            one tile without a thumbnail. None: the checkpoint's own (`max_dynamic_patch`). Video frames are never cut.
            A number outside raises `RequestError` when the request is made.
        policy: which sources are accepted, and their limits.
    """

    reference: bool = False
    max_tiles: int | None = None
    policy: MediaPolicy = field(default_factory=MediaPolicy)


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen. Temperature 0 is greedy."""

    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    repetition_penalty: float | None = None  # None: the checkpoint's own, usually 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int = 0  # how many alternatives to report per token; 0: none


def describe_source(source: Source | Frames) -> str:
    """A short name for error sentences, on one line and without passwords; never the content itself."""
    name = getattr(source, "name", None)
    if isinstance(source, (Bytes, Array)) and source.name:
        return _printable(source.name)
    if isinstance(source, FilePath):
        return _printable(str(source.path))
    if isinstance(source, (Url, str, os.PathLike)):
        return _printable(_without_password(source.url if isinstance(source, Url) else os.fspath(source)))
    if isinstance(source, Bytes):
        return f"<{len(source.data):,} bytes>"
    if isinstance(source, memoryview):
        return f"<{source.nbytes:,} bytes>"
    if isinstance(source, (bytes, bytearray)):
        return f"<{len(source):,} bytes>"
    if isinstance(name, str) and name and hasattr(source, "read"):
        return _printable(name)
    if is_ndarray(source) or isinstance(source, Array):
        return "<array>"
    return "<image>" if is_pil_image(source) else f"<{type(source).__name__}>"


def is_ndarray(value: object) -> TypeGuard[np.ndarray[Any, Any]]:
    """Whether this is a NumPy array. NumPy is not imported: a caller who has an array has imported it."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_pil_image(value: object) -> TypeGuard[Pillow.Image]:
    """Whether this is a PIL image. Pillow is not imported: a caller who has an image has imported it."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def is_source(value: object) -> bool:
    """Whether this is one source (not a list of them), by its type alone."""
    known = (str, os.PathLike, bytes, bytearray, memoryview, FilePath, Url, Bytes, Array)
    return isinstance(value, known) or hasattr(value, "read") or is_ndarray(value) or is_pil_image(value)


def wrong_source(value: object, kind: str) -> RequestError:
    """The sentence for a value that is not a source.

    Args:
        value: what the caller passed.
        kind: with its article, such as "an image".
    """
    if type(value).__module__.partition(".")[0] == "torch":
        return RequestError(f"a torch tensor cannot be {kind}", fix="pass tensor.cpu().numpy()")
    return RequestError(
        f"a value of type {type(value).__name__} cannot be {kind}",
        fix="pass a path, a URL, bytes, an open binary file, a NumPy array or a PIL image",
    )


def _check_source(value: object, kind: str) -> None:
    if not is_source(value):
        raise wrong_source(value, kind)


def _check_number(value: object, name: str, *, integer: bool = False) -> None:
    wanted = numbers.Integral if integer else numbers.Real
    if not isinstance(value, wanted) or isinstance(value, bool):
        what = "an integer" if integer else "a number"
        raise RequestError(f"must be {what}, not {value!r:.60}", where=name)


_Item = TypeVar("_Item")


def _as_list(value: Iterable[_Item] | _Item, name: str, *, array_dims: int) -> list[Any]:
    """The items of an argument that takes several; a single source is a list of one.

    Args:
        value: what the caller passed.
        name: of the argument.
        array_dims: most dimensions of an array that is a single item; one more is a stack of items.
    """
    if value is None:
        return []
    if isinstance(value, (Image, Video, Audio)) or (is_source(value) and not is_ndarray(value)):
        return [value]
    if is_ndarray(value) and value.ndim <= array_dims:
        return [value]
    torch = type(value).__module__.partition(".")[0] == "torch"
    if torch or isinstance(value, (Mapping, Text, Message)) or not isinstance(value, Iterable):
        raise wrong_source(value, f"the {name} of a message")
    return list(value)


def _without_password(text: str) -> str:
    """A URL without user name and password; the head alone of a data: URL."""
    if text[:5].lower() == "data:":
        return "the data: URL"
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return f"{scheme}://{authority.rpartition('@')[2]}{rest[len(authority) :]}"


def _printable(text: str) -> str:
    """On one line, in characters that a terminal can show, at most 120 of them."""
    text = text if len(text) <= 120 else text[:60] + "…" + text[-20:]
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else "�" for c in text)
