"""Fetching the bytes of a medium, wherever they are.

Owns paths, URLs, standard input and size limits. Does not know what the bytes mean.
"""

from __future__ import annotations

import base64
import binascii
import http.client
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

BLOCK = 1 << 20  # bytes read at a time


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
    name = _name(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _in_memory(bytes(source), name, options)
    if isinstance(source, str):
        scheme = source[:8].lower()
        if source == "":
            raise MediaError(f"the name of a {kind} is empty", fix="pass a path, a URL, bytes or an array")
        if source == "-":
            return _in_memory(_read_limited(sys.stdin.buffer, options, "standard input"), "standard input", options)
        if scheme.startswith("data:"):
            return _in_memory(_read_data_url(source), "the data: URL", options)
        if scheme.startswith(("http://", "https://")):
            return _in_memory(_fetch(source, options), name, options)
    if isinstance(source, (str, Path)):
        return _on_disk(Path(source), name, options)
    if hasattr(source, "read"):
        return _in_memory(_read_limited(source, options, name), name, options)
    raise MediaError(f"cannot be read as a {kind}", where=name, fix="pass a path, a URL, bytes or an array")


def kept(source: Source, options: MediaOptions, kind: str) -> Source:
    """A source that can be read again in a later turn: what can be read only once, or may change, becomes bytes.

    Raises:
        MediaError: as `read_source`.
    """
    once = hasattr(source, "read")
    if isinstance(source, str):
        once = source == "-" or source[:8].lower().startswith(("http://", "https://"))
    if isinstance(source, (str, Path)) and not once:
        once = Path(source).is_fifo()
    return read_source(source, options, kind).data if once else source


def _name(source: Source) -> str:
    """A short name; an open file says its own."""
    if isinstance(source, memoryview):
        return f"<{source.nbytes} bytes>"
    own = getattr(source, "name", None)
    return describe_source(own if isinstance(own, str) and own and hasattr(source, "read") else source)


def _on_disk(path: Path, name: str, options: MediaOptions) -> Loaded:
    try:
        path = path.expanduser()
        size = path.stat().st_size
        if path.is_dir():
            raise MediaError("is a folder, not a file", where=name, fix="name a file in it")
        if path.is_fifo():  # what a shell makes of <(command)
            with path.open("rb") as pipe:
                return _in_memory(_read_limited(pipe, options, name), name, options)
        if not path.is_file():
            raise MediaError("is not a regular file", where=name)
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise MediaError("no such file", where=name, fix="check the path") from None
    except PermissionError:
        raise MediaError("may not be read by this user", where=name, fix="change its permissions") from None
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a null byte, the home of an unknown user
        raise MediaError(f"cannot be opened ({getattr(error, 'strerror', None) or error})", where=name) from error
    if size == 0:
        raise MediaError("is empty", where=name)
    if size > options.policy.max_bytes:
        raise _too_large(name, options, size)
    return Loaded(name, path=path)


def _in_memory(data: bytes, name: str, options: MediaOptions) -> Loaded:
    if not data:
        raise MediaError("is empty", where=name)
    if len(data) > options.policy.max_bytes:
        raise _too_large(name, options, len(data))
    return Loaded(name, data=data)


def _too_large(name: str, options: MediaOptions, size: int | None = None) -> MediaError:
    took = "is larger than" if size is None else f"has {size:,} bytes, more than"
    return MediaError(f"{took} the limit of {options.policy.max_bytes:,} bytes", where=name, fix="pass a smaller file")


def _read_limited(stream: BinaryIO, options: MediaOptions, name: str) -> bytes:
    """All of a stream, given up once it is over the limit."""
    blocks: list[bytes] = []
    size = 0
    try:
        while block := stream.read(BLOCK):
            if not isinstance(block, bytes):
                raise MediaError("is a text stream", where=name, fix="open it in binary mode")
            size += len(block)
            if size > options.policy.max_bytes:
                raise _too_large(name, options)
            blocks.append(block)
    except (OSError, ValueError, http.client.HTTPException) as error:  # a closed file says ValueError
        raise MediaError(f"cannot be read to its end ({error})", where=name) from error
    return b"".join(blocks)


def _read_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise MediaError("has no comma", where="the data: URL")
    plain = unquote_to_bytes(body)
    if not head.lower().endswith(";base64"):
        return plain
    try:
        return base64.b64decode(b"".join(plain.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError("is not valid base64", where="the data: URL") from error


def _fetch(url: str, options: MediaOptions) -> bytes:
    name = describe_source(url)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "vita"})
        with urllib.request.urlopen(request, timeout=options.policy.deadline) as answer:
            length = answer.headers.get("Content-Length", "")
            promised = int(length) if length.isdigit() else None
            if promised is not None and promised > options.policy.max_bytes:
                raise _too_large(name, options, promised)
            data = _read_limited(answer, options, name)
    except urllib.error.HTTPError as error:
        error.close()
        raise MediaError(
            f"the server answered {error.code} {error.reason}", where=name, fix="check the address"
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError and TimeoutError are OSErrors
        reason = getattr(error, "reason", error)
        raise MediaError(
            f"could not be fetched ({reason})", where=name, fix="check the address and the network"
        ) from error
    if promised is not None and len(data) < promised:
        raise MediaError(f"broke off after {len(data):,} of {promised:,} bytes", where=name, fix="try again")
    return data
