"""Suffixes of the names of media files: what kind of file a name promises."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["image", "video", "audio"]

IMAGE_SUFFIXES = "png jpg jpeg jpe jfif mpo gif webp apng avif heic heif bmp tif tiff ppm pgm pbm pnm"
RARE_SUFFIXES = "jp2 j2k jpx psd qoi dds ico tga"
VIDEO_SUFFIXES = "mp4 m4v mov mkv webm avi mpg mpeg ts mts m2ts wmv flv 3gp ogv"
AUDIO_SUFFIXES = "wav flac mp3 ogg oga opus m4a aac aif aiff wma amr au caf w64"
SUFFIXES: dict[Kind, frozenset[str]] = {
    "image": frozenset(f"{IMAGE_SUFFIXES} {RARE_SUFFIXES}".split()),
    "video": frozenset(VIDEO_SUFFIXES.split()),
    "audio": frozenset(AUDIO_SUFFIXES.split()),
}
URL = re.compile(r"(https?|file)://", re.IGNORECASE)


def kind_of(path: str) -> Kind | None:
    """What a file is by the suffix of its name; None if the suffix does not tell."""
    name = urlsplit(path).path if URL.match(path) else path
    suffix = PurePosixPath(name).suffix[1:].lower()
    return next((kind for kind, suffixes in SUFFIXES.items() if suffix in suffixes), None)
