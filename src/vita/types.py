"""The words of the house: messages in, events out.

Owns the plain data that passes between the parts. Knows nothing of tensors, files or models.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

# A path, an http(s) or data: URL, raw bytes, an open binary file, a PIL picture, or a numpy array.
Source: TypeAlias = Any


@dataclass(frozen=True)
class Text:
    """Words of a user or of the model, taken literally: no placeholder is ever looked for in them."""

    text: str


@dataclass(frozen=True)
class Image:
    """One picture. An array is uint8 `[height, width, 3 or 4]` or `[height, width]`."""

    source: Source


@dataclass(frozen=True)
class Video:
    """One clip, or a list of pictures taken as its frames."""

    source: Source
    fps: float = 1.0  # frames looked at per second of video
    max_frames: int = 16
    start: float | None = None  # seconds
    end: float | None = None  # seconds


@dataclass(frozen=True)
class Audio:
    """One sound. An array is float or int16 `[samples]` or `[samples, channels]` with `sample_rate` in Hz."""

    source: Source
    sample_rate: int | None = None
    from_video: bool = False  # the source is a video whose sound is wanted


Part: TypeAlias = Text | Image | Video | Audio
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: its parts in reading order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All its words, joined by newlines."""
        return "\n".join(p.text for p in self.parts if isinstance(p, Text))


def user(
    text: str | None = None,
    *,
    image: Source = None,
    images: Iterable[Source] = (),
    video: Source | Video = None,
    videos: Iterable[Source | Video] = (),
    audio: Source | Audio = None,
    audios: Iterable[Source | Audio] = (),
) -> Message:
    """A user turn: pictures, then videos, then the text, then speech (the order the model was trained on)."""
    parts: list[Part] = []
    for source in ([] if image is None else [image]) + list(images):
        parts.append(source if isinstance(source, Image) else Image(source))
    for source in ([] if video is None else [video]) + list(videos):
        parts.append(source if isinstance(source, Video) else Video(source))
    if text is not None and text != "":
        parts.append(Text(text))
    for source in ([] if audio is None else [audio]) + list(audios):
        parts.append(source if isinstance(source, Audio) else Audio(source))
    return Message("user", tuple(parts))


def assistant(text: str) -> Message:
    """A turn the model gave earlier."""
    return Message("assistant", (Text(text),))


def system(text: str) -> Message:
    """Replaces the built-in system text; only valid as the first message."""
    return Message("system", (Text(text),))


@dataclass(frozen=True)
class MediaPolicy:
    """What a surface accepts as media, and how much of it.

    Attributes:
        allow_files: local paths may be read. A server sets this to False.
        allow_urls: http(s) URLs may be fetched.
        domains: hosts that URLs may name; None: every public host.
        max_bytes: largest file, download or in-memory source, in bytes.
        max_pixels: largest image or video frame, in pixels.
        max_seconds: longest audio, in seconds.
        deadline: longest time to read and decode the media of one request, downloads included, in seconds.
    """

    allow_files: bool = True
    allow_urls: bool = True
    domains: tuple[str, ...] | None = None
    max_bytes: int = 256 << 20
    max_pixels: int = 120_000_000
    max_seconds: float = 3600.0
    deadline: float = 300.0


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
    """How tokens are chosen. `engine.sampler.check_params` refuses wrong types and values.

    Attributes:
        max_tokens: most new tokens, 1 or more. None: as many as the context and the memory hold.
        temperature: 0 to 10; below 1e-6 is greedy.
        top_p: keep the most probable tokens that together reach this probability; over 0, at most 1.
        top_k: keep this many of the most probable tokens; 0: all.
        min_p: drop tokens less probable than this fraction of the most probable one; 0 to 1.
        repetition_penalty: divides (positive) or multiplies (negative) the logits of tokens that the answer already
            holds, 0.01 to 100. None: the checkpoint's own, usually 1.
        seed: makes random choices repeatable. None: a new one for each answer.
        stop: a string, or strings, that end the answer and are not part of it. Kept as a tuple.
        logprobs: how many alternatives to report for each token, 0 to 100; 0: no log-probabilities.
        ignore_eos: continue past stop tokens, until `max_tokens`.
        n: number of answers, 1 to 16.
    """

    max_tokens: int | None = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | Sequence[str] = ()
    logprobs: int = 0
    ignore_eos: bool = False
    n: int = 1

    def __post_init__(self) -> None:
        """One string is one stop string; NumPy numbers become Python's. Wrong types are kept for the check."""
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif isinstance(self.stop, Iterable) and not isinstance(self.stop, (bytes, bytearray, Mapping)):
            object.__setattr__(self, "stop", tuple(self.stop))
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or type(value) in (int, float):
                continue
            if isinstance(value, numbers.Integral):
                object.__setattr__(self, item.name, int(value))
            elif isinstance(value, numbers.Real):
                object.__setattr__(self, item.name, float(value))


def describe_source(source: Source) -> str:
    """A short name for error sentences; never the content itself."""
    if isinstance(source, (str, Path)):
        text = str(source)
        return text if len(text) <= 120 else text[:60] + "…" + text[-20:]
    if isinstance(source, (bytes, bytearray)):
        return f"<{len(source)} bytes>"
    return f"<{type(source).__name__}>"


MediaKind = Literal["image", "audio"]


@dataclass(frozen=True)
class TextSpan:
    """A stretch of a prompt that is token ids."""

    ids: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Positions it takes."""
        return len(self.ids)


@dataclass(frozen=True)
class MediaSpan:
    """A stretch of a prompt that an encoder fills: one image tile, one video frame or one audio clip.

    Attributes:
        kind: which encoder.
        digest: names the content; equal digests give equal rows.
        rows: positions it takes.
        data: what the encoder reads: one uint8 `[S, S, 3]` tile, or the float32 `[n]` windows of an audio clip.
            Empty where only the name is wanted.
    """

    kind: MediaKind
    digest: bytes
    rows: int
    data: tuple[np.ndarray[Any, Any], ...] = field(default=(), compare=False, repr=False)


Span: TypeAlias = TextSpan | MediaSpan
