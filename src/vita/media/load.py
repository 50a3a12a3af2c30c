"""Fetching the bytes of a medium, wherever they are.

Owns paths, URLs, standard input and size limits. Does not know what the bytes mean.
"""

from __future__ import annotations

import base64
import binascii
import io
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from vita.errors import MediaError
from vita.types import MediaOptions, Source, describe_source

BLOCK = 1 << 20


@dataclass(frozen=True)
class Loaded:
    """A medium that can be opened: a file on disk, or bytes in memory."""

    name: str  # for error sentences
    path: Path | None = None
    data: bytes | None = None

    def open(self) -> BinaryIO:
        """A fresh seekable stream.

        Raises:
            MediaError: the file cannot be opened.
        """
        if self.data is not None:
            return io.BytesIO(self.data)
        assert self.path is not None
        try:
            return self.path.open("rb")
        except OSError as error:
            raise MediaError(f"cannot be opened ({error.strerror})", where=self.name) from error


def read_source(source: Source, options: MediaOptions, kind: str) -> Loaded:
    """Resolve a source; a local file is checked but not read.

    Args:
        source: path, http(s) or data: URL, "-" (standard input), bytes, or an open binary file.
        options: limits.
        kind: "picture", "video" or "sound", for error sentences.

    Raises:
        MediaError: missing, a folder, unreadable, empty, too large, or not to be fetched.
    """
    name = describe_source(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _in_memory(bytes(source), name, options)
    if isinstance(source, str):
        if source == "-":
            return _in_memory(_read_limited(sys.stdin.buffer, options, "standard input"), "standard input", options)
        if source.startswith("data:"):
            return _in_memory(_read_data_url(source), "the data: URL", options)
        if source.startswith(("http://", "https://")):
            return _in_memory(_fetch(source, options), name, options)
    if isinstance(source, (str, Path)):
        return _on_disk(Path(source).expanduser(), name, options)
    if hasattr(source, "read"):
        return _in_memory(_read_limited(source, options, name), name, options)
    raise MediaError(f"cannot be read as a {kind}", where=name, fix="pass a path, a URL, bytes or an array")


def _on_disk(path: Path, name: str, options: MediaOptions) -> Loaded:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise MediaError("is a folder, not a file", where=name, fix="name a file in it")
        if not path.is_file():
            raise MediaError("is not a regular file", where=name)
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise MediaError("no such file", where=name, fix="check the path") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"cannot be opened ({getattr(error, 'strerror', None) or error})", where=name) from error
    if size == 0:
        raise MediaError("is empty", where=name)
    if size > options.max_bytes:
        raise MediaError(f"is {size / 1e9:.1f} GB, the limit is {options.max_bytes / 1e9:.1f} GB", where=name)
    return Loaded(name, path=path)


def _in_memory(data: bytes, name: str, options: MediaOptions) -> Loaded:
    if not data:
        raise MediaError("is empty", where=name)
    if len(data) > options.max_bytes:
        raise MediaError(f"is over the limit of {options.max_bytes / 1e9:.1f} GB", where=name)
    return Loaded(name, data=data)


def _read_limited(stream: BinaryIO, options: MediaOptions, name: str) -> bytes:
    """All of a stream, given up once it is over the limit."""
    blocks: list[bytes] = []
    size = 0
    try:
        while block := stream.read(BLOCK):
            if not isinstance(block, bytes):
                raise MediaError("is a text stream", where=name, fix="open it in binary mode")
            size += len(block)
            if size > options.max_bytes:
                raise MediaError(f"is over the limit of {options.max_bytes / 1e9:.1f} GB", where=name)
            blocks.append(block)
    except OSError as error:
        raise MediaError(f"cannot be read to its end ({error})", where=name) from error
    return b"".join(blocks)


def _read_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise MediaError("has no comma", where="the data: URL")
    if not head.endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError("is not valid base64", where="the data: URL") from error


def _fetch(url: str, options: MediaOptions) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "vita"})
    try:
        with urllib.request.urlopen(request, timeout=options.url_timeout) as answer:
            length = answer.headers.get("Content-Length", "")
            if length.isdigit() and int(length) > options.max_bytes:
                raise MediaError(f"is over the limit of {options.max_bytes / 1e9:.1f} GB", where=describe_source(url))
            return _read_limited(answer, options, describe_source(url))
    except urllib.error.HTTPError as error:
        raise MediaError(f"the server answered {error.code} {error.reason}", where=describe_source(url)) from error
    except (urllib.error.URLError, TimeoutError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise MediaError(
            f"could not be fetched ({reason})", where=describe_source(url), fix="check the address and the network"
        ) from error
