"""Output that every encoding of stdout and stderr can hold.

A stream's encoding is the user's choice: ASCII with LANG=C, a code page on Windows, UTF-8 elsewhere.
"""

from __future__ import annotations

import codecs
import io
import json
import sys
from typing import TextIO


def replace_unencodable() -> None:
    """Print `?` for a character that stdout's or stderr's encoding cannot hold, instead of failing.

    stderr is left as it is if it escapes such characters, which is Python's default.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not _can_write_all(stream):
            stream.reconfigure(errors="replace")


def _can_write_all(stream: io.TextIOWrapper) -> bool:
    """Whether no text raises an error."""
    if stream.errors == "surrogateescape":  # for bytes of file names; other characters raise unless it is UTF-8
        return is_utf8(stream)
    return stream.errors != "strict"


def is_utf8(stream: TextIO) -> bool:
    """Whether the stream's encoding is UTF-8; true for a stream without an encoding, such as `io.StringIO`."""
    return not stream.encoding or codecs.lookup(stream.encoding).name == "utf-8"


def print_json(data: object) -> None:
    """Print one JSON object in a line; in ASCII unless stdout is UTF-8, so that every reader can decode it."""
    print(json.dumps(data, ensure_ascii=not is_utf8(sys.stdout)), flush=True)
