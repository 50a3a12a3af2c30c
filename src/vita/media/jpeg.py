"""JPEG: counting scans before decoding, and closing a file whose end is missing."""

from __future__ import annotations

import re
from typing import NamedTuple

START = b"\xff\xd8"
END = b"\xff\xd9"
# Inside coded data, FF 00 is a byte of data and FF D0 to FF D7 are restarts; any other FF xx is a marker.
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
SOS, EOI = 0xDA, 0xD9
STANDALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
USUAL_SCANS = 64  # a progressive JPEG has about ten


class JpegScans(NamedTuple):
    """What a walk over the markers finds."""

    scans: int  # with coded data
    end: int  # behind the last complete segment, or behind the coded data that breaks off
    complete: bool  # the end marker is there


def scan_jpeg(data: bytes) -> JpegScans:
    """Walk over the markers of the first image in a file."""
    position, scans = 2, 0
    while True:
        found = MARKER.search(data, position)
        if found is None:
            return JpegScans(scans, len(data) if scans else position, False)
        marker, start = data[found.start() + 1], found.start()
        if marker == EOI:
            return JpegScans(scans, found.end(), True)
        if marker in STANDALONE:
            position = found.end()
            continue
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        position = start + 2 + max(2, length)
        if position > len(data):
            return JpegScans(scans, start, False)
        scans += marker == SOS and position < len(data)


def closed_jpeg(data: bytes) -> bytes | None:
    """The file with an end marker appended, so that its decoder fills the rest with grey.

    Returns:
        None if the file has its end, or breaks off before its coded data.
    """
    found = scan_jpeg(data)
    if found.complete or not found.scans:
        return None
    kept = data[: found.end]
    return (kept[:-1] if kept.endswith(b"\xff") else kept) + END
