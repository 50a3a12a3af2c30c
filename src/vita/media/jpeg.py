"""JPEG: count scans before decoding, close a cut file, drop side segments."""

from __future__ import annotations

import re
from typing import NamedTuple

START = b"\xff\xd8"
END = b"\xff\xd9"
# Inside coded data, FF 00 is a byte of data and FF D0 to FF D7 are restarts; any other FF xx is a marker.
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
SOS, EOI, EXIF, ADOBE, COMMENT = 0xDA, 0xD9, 0xE1, 0xEE, 0xFE
ADOBE_LENGTH = 12  # bytes; what it says of the colours is in the last one
STANDALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length


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


def pixel_segments_only(data: bytes) -> bytes:
    """The same JPEG without comments, profiles and other side segments before its pixels.

    EXIF (the orientation) and Adobe's segment (the colour space) stay, the latter if it is complete.
    """
    out, position = bytearray(START), 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != SOS:
        marker = data[position + 1]
        end = position + 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
        body = data[position + 4 : end]
        side = 0xE0 <= marker <= 0xEF or marker == COMMENT
        exif = marker == EXIF and body.startswith(b"Exif\0\0")
        adobe = marker == ADOBE and body.startswith(b"Adobe") and len(body) >= ADOBE_LENGTH
        if not side or exif or adobe:
            out += data[position:end]
        position = end
    return bytes(out + data[position:])
