"""Resolve a media source once, obey the policy, and read its bytes.

`resolve_source` decides what a value means; `read_source` obeys `MediaOptions.policy`; `snapshot` makes a copy that no
later change of a file, array or stream can reach.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from vita.errors import MediaError
from vita.media.policy import UNGUARDED, ReadGuard
from vita.media.temporary import TemporaryContent
from vita.sources import (
    Array,
    Bytes,
    FilePath,
    Frames,
    Source,
    Url,
    describe_source,
    is_ndarray,
    is_pil_image,
    list_or_source,
    wrong_source,
)
from vita.types import Audio, Image, MediaOptions, Message, Part, Text, Video

BLOCK = 1 << 20  # bytes read at a time
DATA_HEAD = 4096  # characters of a data: URL before its comma, at most
BASE64 = re.compile(r"[A-Za-z0-9+/\s]{60,}={0,2}\s*")  # text that is more likely base64 than the name of a file
BASE64_BYTES = re.compile(rb"[A-Za-z0-9+/]{60}")  # no media file begins with so many letters and digits
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class DataUrl:
    """A data: URL, not yet decoded."""

    url: str


@dataclass(frozen=True)
class Stream:
    """An open binary file, which can be read once."""

    file: BinaryIO
    name: str
    stdin: bool = False


ResolvedSource: TypeAlias = FilePath | Url | DataUrl | Bytes | Array | Stream


@dataclass(frozen=True)
class Loaded:
    """An encoded file that can be opened: on disk, or in memory."""

    name: str  # for error sentences
    path: Path | None = None
    data: bytes | None = None
    download: TemporaryContent | None = None

    def open(self) -> BinaryIO:
        """A fresh seekable stream.

        Raises:
            MediaError: the file cannot be opened.
        """
        if self.data is not None:
            return io.BytesIO(self.data)
        if self.download is not None:
            return self.download.open()
        assert self.path is not None
        try:
            return self.path.open("rb")
        except OSError as error:
            raise MediaError(f"cannot be opened ({error.strerror})", where=self.name) from error


def resolve_source(source: Source, kind: str) -> ResolvedSource:
    """What a value means; nothing is read.

    Args:
        source: what the caller passed.
        kind: "image", "video" or "audio", for error sentences.

    Raises:
        MediaError: an empty name, or a URL of a scheme that is not read.
        RequestError: a value of another type.
    """
    name = describe_source(source)
    if isinstance(source, (FilePath, Bytes, Array)):
        return source
    if isinstance(source, Url):
        return _resolve_url(source.url, name)
    if isinstance(source, str):
        if not source:
            raise MediaError(f"the name of the {kind} is empty", fix="name a file or a URL")
        if source == "-":
            return Stream(sys.stdin.buffer, "standard input", stdin=True)
        if SCHEME.match(source) or source[:5].lower() in ("data:", "file:"):
            return _resolve_url(source, name)
        return FilePath(Path(source))
    if isinstance(source, os.PathLike):
        return FilePath(Path(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return Bytes(bytes(source), name)
    if is_ndarray(source) or is_pil_image(source):
        return Array(source, name)
    if hasattr(source, "read"):
        return Stream(cast(BinaryIO, source), name)
    raise wrong_source(source, f"the source of {kind}")


def _resolve_url(url: str, name: str) -> FilePath | Url | DataUrl:
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if scheme == "data":
        return DataUrl(url)
    if scheme in ("http", "https"):
        return Url(url)
    if scheme != "file":
        raise MediaError(
            "is not a URL that can be read", where=name,
            fix="use http:, https:, data: or file:, or download it first and pass the file",
        )  # fmt: skip
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise MediaError(f"is not a valid URL ({error})", where=name) from error
    if parts.netloc not in ("", "localhost"):
        raise MediaError("names a file on another machine", where=name, fix="write file:///path, or pass the path")
    return FilePath(Path(unquote(parts.path)))


def read_source(source: Source, options: MediaOptions, kind: str, guard: ReadGuard = UNGUARDED) -> Loaded:
    """Resolve a source and get hold of its bytes. A local file is checked but not read.

    Args:
        source: what the caller passed.
        options: its `policy` says which sources are allowed, and how large they may be.
        kind: "image", "video" or "audio", for error sentences.
        guard: deadline and cancel.

    Raises:
        MediaError: not allowed, missing, a folder, unreadable, empty, too large, or not to be fetched.
        RequestError: a value that is not a source.
        Cancelled: by the guard.
    """
    resolved = resolve_source(source, kind)
    policy = options.policy
    if isinstance(resolved, Bytes):
        return _in_memory(resolved.data, describe_source(resolved), options)
    if isinstance(resolved, DataUrl):
        return _in_memory(_decode_data_url(resolved.url, options), "the data: URL", options)
    if isinstance(resolved, Url):
        name = describe_source(resolved)
        if not policy.allow_urls:
            raise MediaError("URLs are not fetched here", where=name, fix="send the bytes, for example as a data: URL")
        return _download(resolved, name, options, guard)
    if isinstance(resolved, Stream):
        if resolved.stdin and not policy.allow_files:
            raise MediaError("is not read here", where=resolved.name, fix="send the bytes")
        return _in_memory(read_stream(resolved.file, options, resolved.name, guard), resolved.name, options)
    if isinstance(resolved, FilePath):
        name = describe_source(resolved)
        if not policy.allow_files:
            raise MediaError("local files are not read here", where=name, fix="send the bytes instead of a path")
        return _on_disk(resolved.path, name, options, guard)
    what = "a decoded image" if is_pil_image(resolved.values) else "an array of this shape"
    raise MediaError(f"{what} cannot be used as {kind}", where=resolved.name or None, fix="pass a file or its bytes")


def snapshot(
    source: Source | Frames, options: MediaOptions, kind: str, guard: ReadGuard = UNGUARDED
) -> Source | Frames:
    """A copy of a source that always reads the same: bytes, or an array of its own.

    Files, URLs and streams are read now; arrays, `bytearray`s and `memoryview`s are copied; PIL images are decoded.
    Lists are copied item by item.

    Raises:
        MediaError, RequestError, Cancelled: as `read_source`.
    """
    source = list_or_source(source)
    if isinstance(source, (list, tuple)):
        return tuple(_snapshot_one(item, options, "image", guard) for item in source)
    return _snapshot_one(source, options, kind, guard)


def snapshot_part(part: Part, options: MediaOptions, guard: ReadGuard = UNGUARDED) -> Part:
    """A message part with a `snapshot` of its source; text as it is.

    Raises:
        MediaError, RequestError, Cancelled: as `read_source`.
    """
    if isinstance(part, Image):
        return replace(part, source=_snapshot_one(part.source, options, "image", guard))
    if isinstance(part, Video):
        return replace(part, source=snapshot(part.source, options, "video", guard))
    if isinstance(part, Audio):
        return replace(part, source=_snapshot_one(part.source, options, "audio", guard))
    return part


def snapshot_memory(message: Message, options: MediaOptions) -> Message:
    """The message with a `snapshot` of what may change before a media worker reads it: arrays, PIL images, buffers and
    streams. Files and URLs are read later.

    Raises:
        MediaError, RequestError: as `read_source`.
    """

    def keep(source: Source, kind: str) -> Source:
        changes = isinstance(source, (bytearray, memoryview, Array)) or hasattr(source, "read")
        if changes or is_ndarray(source) or is_pil_image(source):
            return _snapshot_one(source, options, kind, UNGUARDED)
        return source

    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, Text):
            parts.append(part)
            continue
        source = list_or_source(part.source)
        if isinstance(part, Video) and isinstance(source, (list, tuple)):
            parts.append(replace(part, source=tuple(keep(frame, "image") for frame in source)))
        else:
            parts.append(replace(part, source=keep(cast(Source, source), type(part).__name__.lower())))
    return Message(message.role, tuple(parts))


def array_values(source: Source | Frames) -> Source | list[Source] | tuple[Source, ...]:
    """The NumPy array or PIL image inside an `Array`; any other source as it is."""
    return source.values if isinstance(source, Array) else list_or_source(source)


def _snapshot_one(source: Source, options: MediaOptions, kind: str, guard: ReadGuard) -> Source:
    resolved = resolve_source(source, kind)
    guard.check(describe_source(source))
    if isinstance(resolved, Array):
        if is_ndarray(resolved.values):
            return Array(resolved.values.copy(), resolved.name)
        from vita.media.image import load_image  # a PIL image may be an unread file: it is checked and decoded there

        return Array(load_image(resolved, options, guard), resolved.name)
    loaded = read_source(source, options, kind, guard)
    if loaded.data is not None:
        return Bytes(loaded.data, loaded.name)
    with loaded.open() as file:
        return Bytes(read_stream(file, options, loaded.name, guard), loaded.name)


def _on_disk(path: Path, name: str, options: MediaOptions, guard: ReadGuard) -> Loaded:
    try:
        path = path.expanduser()
        size = path.stat().st_size
        if path.is_dir():
            raise MediaError("is a folder, not a file", where=name, fix="name a file in it")
        if path.is_fifo():  # what a shell makes of <(command)
            with path.open("rb") as pipe:
                return _in_memory(read_stream(pipe, options, name, guard), name, options)
        if not path.is_file():
            raise MediaError("is not a regular file", where=name)
        with path.open("rb"):
            pass
    except FileNotFoundError:
        if BASE64.fullmatch(str(path)):
            raise _is_base64("is base64 text, not a path", name) from None
        raise MediaError("no such file", where=name, fix="check the path") from None
    except PermissionError:
        raise MediaError("may not be read by this user", where=name, fix="change its permissions") from None
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a null byte, the home of an unknown user
        if BASE64.fullmatch(str(path)):
            raise _is_base64("is base64 text, not a path", name) from None
        raise MediaError(f"cannot be opened ({getattr(error, 'strerror', None) or error})", where=name) from error
    if size == 0:
        raise MediaError("is empty", where=name)
    if size > options.policy.max_bytes:
        raise too_many_bytes(name, options, size)
    return Loaded(name, path=path)


def refuse_pipe(source: Source) -> None:
    """Refuse a named pipe where nobody may write to it, so that reading it would never end.

    Raises:
        MediaError: it is one, or as `resolve_source`.
    """
    resolved = resolve_source(source, "file")
    with contextlib.suppress(OSError, ValueError):
        if isinstance(resolved, FilePath) and resolved.path.is_fifo():
            raise MediaError("is not a regular file", where=describe_source(source))


def _in_memory(data: bytes, name: str, options: MediaOptions) -> Loaded:
    if not data:
        raise MediaError("is empty", where=name)
    if len(data) > options.policy.max_bytes:
        raise too_many_bytes(name, options, len(data))
    if BASE64_BYTES.match(data):
        raise _is_base64("holds base64 text, not the bytes of a file", name)
    return Loaded(name, data=data)


def _is_base64(what: str, name: str) -> MediaError:
    return MediaError(what, where=name, fix='put "data:;base64," before the text, or decode it and pass the bytes')


def too_many_bytes(name: str, options: MediaOptions, size: int | None = None) -> MediaError:
    """The sentence for a source over the limit; without a size, one that was not read to its end."""
    what = "is larger than" if size is None else f"has {size:,} bytes, more than"
    return MediaError(f"{what} the limit of {options.policy.max_bytes:,} bytes", where=name, fix="pass a smaller file")


def read_stream(stream: BinaryIO, options: MediaOptions, name: str, guard: ReadGuard = UNGUARDED) -> bytes:
    """All of a stream, given up once it is over the limit.

    Raises:
        MediaError: it is over the limit, cannot be read to its end, or is no binary stream. Cancelled: by the guard.
    """
    buffer = io.BytesIO()  # hands out its bytes without a second copy
    size = 0
    try:
        while block := stream.read(BLOCK):
            if not isinstance(block, bytes):
                raise MediaError("is a text stream", where=name, fix="open it in binary mode")
            size += len(block)
            if size > options.policy.max_bytes:
                raise too_many_bytes(name, options)
            buffer.write(block)
            guard.check(name)
    except (OSError, ValueError) as error:  # a closed file says ValueError
        raise MediaError(f"cannot be read to its end ({error})", where=name) from error
    return buffer.getvalue()


def _decode_data_url(url: str, options: MediaOptions) -> bytes:
    name = "the data: URL"
    comma = url.find(",", 0, DATA_HEAD)
    if comma < 0:
        raise MediaError("has no comma after its media type", where=name)
    if not url.isascii():
        raise MediaError("holds characters that are not ASCII", where=name, fix="encode the bytes as base64")
    coded = len(url) - comma - 1  # characters
    limit = options.policy.max_bytes
    if not url[:comma].lower().endswith(";base64"):
        if coded - 2 * url.count("%", comma) > limit:  # %XX is one byte
            raise too_many_bytes(name, options)
        return unquote_to_bytes(url[comma + 1 :])
    if coded > 2 * limit + DATA_HEAD:  # 4 characters for 3 bytes, some room for line breaks and %XX
        raise too_many_bytes(name, options)
    packed = b"".join(unquote_to_bytes(url[comma + 1 :]).split())
    if len(packed) // 4 * 3 - 2 > limit:
        raise too_many_bytes(name, options, len(packed) // 4 * 3)
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError("is not valid base64", where=name) from error


def _download(source: Url, name: str, options: MediaOptions, guard: ReadGuard) -> Loaded:
    from vita.media.fetch import fetch

    content = TemporaryContent(name)
    if fetch(source.url, content.file, options, guard) == 0:
        raise MediaError("is empty", where=name)
    return Loaded(name, download=content)
