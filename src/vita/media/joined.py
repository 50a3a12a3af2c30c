"""Ogg pages and FLAC markers: where joined recordings begin, and where a recording ends."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from vita.media.policy import ReadGuard
from vita.media.source import Loaded
from vita.media.views import Stretch

OGG = b"OggS"
FLAC = b"fLaC\x00\x00\x00\x22"  # the marker and the header of the first metadata block, which is 34 bytes long
OGG_HEADER = 27  # bytes before the table of segment lengths
BEGINS = 0x02  # flag of the first page of a stream
ENDS = 0x04  # flag of its last page
MOST_PAGE = 65_307  # bytes
MOST_PARTS = 10_000
BLOCK = 1 << 20  # bytes searched at a time


def split_joined(loaded: Loaded, guard: ReadGuard) -> list[Loaded]:
    """The recordings in order. FFmpeg reads past the border between two of them only if both are of one kind.

    Returns:
        Each as a file of its own; the file itself if it is one recording.
    """
    with loaded.open() as stream:
        head = stream.read(4)
        if head == OGG:
            borders = _ogg_borders(stream, guard, loaded.name)
        elif head == FLAC[:4]:
            borders = _find_all(stream, FLAC, guard, loaded.name)
        else:
            return [loaded]
        starts = [start for start, _ in zip(borders, range(MOST_PARTS), strict=False)]
        size = stream.seek(0, io.SEEK_END)
    if len(starts) < 2:
        return [loaded]
    ends = [*starts[1:], size]
    return [
        Stretch(loaded.name, source=loaded, start=start, end=end)
        for start, end in zip([0, *starts[1:]], ends, strict=True)
    ]


def last_granule(loaded: Loaded) -> int | None:
    """Position in samples at which an Ogg stream ends, from its last page; None: that page is missing."""
    with loaded.open() as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - MOST_PAGE))
        tail = stream.read(MOST_PAGE)
    page = tail.rfind(OGG)
    header = tail[page : page + OGG_HEADER]
    if page < 0 or len(header) < OGG_HEADER or not header[5] & ENDS:
        return None
    return int.from_bytes(header[6:14], "little", signed=True)


def _ogg_borders(stream: BinaryIO, guard: ReadGuard, name: str) -> Iterator[int]:
    """Offsets of the first page of every group of streams that begin together."""
    position, beginning = 0, False
    while True:
        guard.check(name)
        stream.seek(position)
        header = stream.read(OGG_HEADER)
        if len(header) < OGG_HEADER:
            return
        if header[:4] != OGG:  # damaged: go on at the next page
            position = next(_find_all(stream, OGG, guard, name, position + 1), -1)
            if position < 0:
                return
            continue
        begins = bool(header[5] & BEGINS)
        if begins and not beginning:
            yield position
        beginning = begins
        position += OGG_HEADER + header[26] + sum(stream.read(header[26]))


def _find_all(stream: BinaryIO, wanted: bytes, guard: ReadGuard, name: str, position: int = 0) -> Iterator[int]:
    """Offsets of these bytes from `position` on."""
    keep = len(wanted) - 1
    while True:
        guard.check(name)
        stream.seek(position)
        block = stream.read(BLOCK)
        found = block.find(wanted)
        while found >= 0:
            yield position + found
            found = block.find(wanted, found + 1)
        if len(block) <= keep:
            return
        position += len(block) - keep
