"""Media sources: the types that stand for a file, a URL, bytes or an array, and their names in sentences."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeGuard, cast

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
    """An `http:`, `https:`, `data:` or `file:` URL."""

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


Frames: TypeAlias = "Sequence[Source]"  # a list or tuple of images, taken as the frames of a video
_ARGUMENTS = {"an image": "images", "a video": "videos", "an audio clip": "audios"}  # that take several


def list_or_source(source: Source | Frames) -> Source | list[Source] | tuple[Source, ...]:
    """The value itself, in a type that tells frames from a single source, although a `str` is a sequence, too."""
    return cast("Source | list[Source] | tuple[Source, ...]", source)


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


def is_tensor(value: object) -> bool:
    """Whether this is a torch tensor. PyTorch is not imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


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
    if is_tensor(value):
        form = "Audio(tensor.cpu().numpy(), sample_rate)" if "audio" in kind else "tensor.cpu().numpy()"
        colours = "" if "audio" in kind else ", uint8 with the colours last"
        return RequestError(f"a torch tensor cannot be {kind}", fix=f"pass {form}{colours}")
    if isinstance(value, (list, tuple)) and kind in _ARGUMENTS:
        fix = f"pass several files as {_ARGUMENTS[kind]}, and numbers as a NumPy array"
        return RequestError(f"a {type(value).__name__} cannot be {kind}", fix=fix)
    return RequestError(
        f"a value of type {type(value).__name__} cannot be {kind}",
        fix="pass a path, a URL, bytes, an open binary file, a NumPy array or a PIL image",
    )


def check_source(value: object, kind: str) -> None:
    if not is_source(value):
        raise wrong_source(value, kind)


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
