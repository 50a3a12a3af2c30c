"""Messages, media sources and request parameters of the public API."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from vita.errors import RequestError
from vita.options import SpeechOptions as SpeechOptions
from vita.options import check_number
from vita.sources import Frames, Source, check_source, is_ndarray, is_source, is_tensor, wrong_source

if TYPE_CHECKING:
    import numpy as np

MAX_REASONING_TOKENS = 256  # unless a request says otherwise


@dataclass(frozen=True)
class Text:
    """Text of the user or the model. It is literal: special tokens and placeholders in it are not parsed."""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise RequestError(f"a text must be a str, not {type(self.text).__name__}", fix="decode or format it")


@dataclass(frozen=True)
class Image:
    """One image. An array is uint8 `[height, width, 3 or 4]` or `[height, width]`.

    Attributes:
        source: the file or array.
        max_tiles: of this image, 1 to 12; None: as `MediaOptions.max_tiles`.

    Raises:
        RequestError: the source or the number is of another type.
    """

    source: Source
    max_tiles: int | None = None

    def __post_init__(self) -> None:
        check_source(self.source, "an image")
        if self.max_tiles is not None:
            check_number(self.max_tiles, "max_tiles", integer=True)


@dataclass(frozen=True)
class Video:
    """One video, or a list of images taken as its frames.

    Attributes:
        source: the file; a list or tuple of images, or an array uint8 `[frames, height, width, 3]`.
        fps: frames sampled per second of video.
        max_frames: most frames the model sees.
        start, end: of the part to look at, in seconds; None: the whole video.

    Raises:
        RequestError: the source or a number is of another type, or a number is out of range.
    """

    source: Source | Frames
    fps: float = 1.0
    max_frames: int = 16
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.source, (list, tuple)):
            for frame in self.source:
                check_source(frame, "a frame of a video")
        else:
            check_source(self.source, "a video")
        check_number(self.fps, "fps")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise RequestError(f"must be more than 0, not {self.fps}", where="fps")
        check_number(self.max_frames, "max_frames", integer=True)
        if self.max_frames < 1:
            raise RequestError(f"must be 1 or more, not {self.max_frames}", where="max_frames")
        for name in ("start", "end"):
            seconds = getattr(self, name)
            if seconds is not None:
                check_number(seconds, name)
                if not seconds >= 0:
                    raise RequestError(f"must be 0 seconds or more, not {seconds}", where=name)
        if self.start is not None and self.end is not None and self.start > self.end:
            raise RequestError(f"{self.start:g} s is after `end`, {self.end:g} s", where="start", fix="swap them")


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
        check_source(self.source, "an audio clip")
        if self.sample_rate is not None:
            check_number(self.sample_rate, "sample_rate")


Part: TypeAlias = Text | Image | Video | Audio
_PARTS = (Text, Image, Video, Audio)
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: its parts in reading order.

    Raises:
        RequestError: a part is of another type.
    """

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.parts, (list, tuple)) or not all(isinstance(p, _PARTS) for p in self.parts):
            raise RequestError(
                "holds something else than Text, Image, Video and Audio", where="parts of a message",
                fix="make the message with user(), assistant() or system()",
            )  # fmt: skip
        object.__setattr__(self, "parts", tuple(self.parts))

    @property
    def text(self) -> str:
        """Its text parts, joined by newlines."""
        return "\n".join(p.text for p in self.parts if isinstance(p, Text))


# What `images`, `videos` and `audios` take: one source counts as a list of one. Not any iterable, so that mypy refuses
# a mapping or a tensor.
Images: TypeAlias = "Source | Image | Sequence[Source | Image] | Iterator[Source | Image]"
Videos: TypeAlias = "Source | Video | Sequence[Source | Frames | Video] | Iterator[Source | Frames | Video]"
Audios: TypeAlias = "Source | Audio | Sequence[Source | Audio] | Iterator[Source | Audio]"


def user(
    text: str | None = None,
    *,
    image: Source | Image | None = None,
    images: Images = (),
    video: Source | Frames | Video | None = None,
    videos: Videos = (),
    audio: Source | Audio | None = None,
    audios: Audios = (),
) -> Message:
    """A user turn: images, then videos, then the text, then speech (the order the model was trained on).

    A single source passed as `images`, `videos` or `audios` counts as a list of one.

    Raises:
        RequestError: an argument is of a type that cannot be used.
    """
    if text is not None and not isinstance(text, str):
        raise RequestError(f"the question must be a str, not {type(text).__name__}")
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
            check_number(value, name)
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

    Raises:
        RequestError: a value of another type.
    """

    reference: bool = False
    max_tiles: int | None = None
    policy: MediaPolicy = field(default_factory=MediaPolicy)

    def __post_init__(self) -> None:
        if not isinstance(self.reference, bool):
            raise RequestError(f"must be True or False, not {self.reference!r:.60}", where="reference")
        if self.max_tiles is not None:
            check_number(self.max_tiles, "max_tiles", integer=True)
        if not isinstance(self.policy, MediaPolicy):
            raise RequestError(f"must be a MediaPolicy, not {type(self.policy).__name__}", where="policy")


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen. `engine.sampler.check_params` refuses wrong types and values.

    Attributes:
        max_tokens: most new tokens of the answer, with its response state and its end token, without the reasoning;
            1 or more. None: as many as the context and the memory hold.
        max_reasoning_tokens: most tokens of reasoning beside those, 0 or more; then the engine ends it and the answer
            follows. 0: no reasoning. None: as many as the context and the memory hold. Changes nothing for checkpoints
            that do not reason.
        temperature: 0 to 10; below 1e-6 is greedy.
        top_p: keep the most probable tokens that together reach this probability; over 0, at most 1.
        top_k: keep this many of the most probable tokens; 0: all.
        min_p: drop tokens less probable than this fraction of the most probable one; 0 to 1.
        repetition_penalty: divides (positive) or multiplies (negative) the logits of tokens that the answer already
            holds, 0.01 to 100. None: the checkpoint's own, usually 1. Tokens of reasoning do not count for penalties.
        seed: makes random choices repeatable. None: a new one for each answer.
        stop: a string, or strings, that end the answer and are not part of it; not searched in its reasoning. Kept as a
            tuple.
        logprobs: how many alternatives to report for each token of the visible answer, 0 to 100; 0: no
            log-probabilities.
        ignore_eos: continue past stop tokens, until `max_tokens`.
        n: number of answers, 1 to 16.
        frequency_penalty: taken off a token's logit for each time the answer holds it, -2 to 2.
        presence_penalty: taken off the logit of every token that the answer holds, -2 to 2.
        logit_bias: added to the logits of these token ids, -100 to 100 each. Kept as a tuple of pairs.
    """

    max_tokens: int | None = 1024
    max_reasoning_tokens: int | None = field(default=MAX_REASONING_TOKENS, kw_only=True)
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
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """One string is one stop string; NumPy numbers become Python's. Wrong types are kept for the check."""
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif isinstance(self.stop, Iterable) and not isinstance(self.stop, (bytes, bytearray, Mapping)):
            object.__setattr__(self, "stop", tuple(self.stop))
        if isinstance(self.logit_bias, Mapping):
            pairs = tuple((_plain(token), _plain(value)) for token, value in self.logit_bias.items())
            object.__setattr__(self, "logit_bias", pairs)
        for item in fields(self):
            object.__setattr__(self, item.name, _plain(getattr(self, item.name)))


def _plain(value: Any) -> Any:
    """Python's own number for one of another library; anything else as it is."""
    if value is None or type(value) in (bool, int, float, str, tuple):  # first: the abstract classes below are slow
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def _as_list(value: object, name: str, *, array_dims: int) -> list[Any]:
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
    if is_tensor(value) or isinstance(value, (Mapping, Text, Message)) or not isinstance(value, Iterable):
        raise wrong_source(value, f"the {name} of a message")
    return list(value)


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
