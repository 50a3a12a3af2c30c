"""Wrong lengths in the headers of WAV, AIFF and AU files, found by looking at the file."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from vita.media.source import Loaded
from vita.media.views import Patched

MOST_CHUNKS = 1000
UNKNOWN = 0xFFFFFFFF  # a length of this says: to the end of the file
FORM_HEADER = 12  # bytes: identifier, length, type


@dataclass(frozen=True)
class _Chunk:
    name: bytes
    start: int  # of its content, in bytes from the start of the file
    size: int  # of its content as the header says, in bytes


def correct_length(loaded: Loaded, notes: list[str]) -> Loaded:
    """The file, with the length in its header corrected where it is 0 and samples follow.

    A recorder writes 0 until it closes the file. Where the header counts fewer bytes than follow, and these are no
    known part of the file, the file stays as it is and `notes` receives a sentence.
    """
    with loaded.open() as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        head = stream.read(FORM_HEADER)
        patches: list[tuple[int, bytes]] = []
        left_over = 0
        if head[:4] in (b".snd", b"dns.") and len(head) == FORM_HEADER:
            big = head[:4] == b".snd"
            start, counted = struct.unpack(">II" if big else "<II", head[4:12])
            if counted == 0 and start < size:
                patches = [(8, struct.pack(">I", UNKNOWN))]
            left_over = size - start - counted
        elif head[8:] == b"WAVE" and head[:4] in (b"RIFF", b"RIFX", b"RF64"):
            patches, left_over = _check_wav(stream, head[:4], size)
        elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            patches = _check_aiff(stream, size)
    if patches:
        return Patched(loaded.name, source=loaded, patches=tuple(patches))
    if left_over > 1:
        notes.append(f"{loaded.name}: {left_over:,} bytes after the audio that its header counts were not read.")
    return loaded


def _chunks(stream: BinaryIO, order: str) -> Iterator[_Chunk]:
    position = FORM_HEADER
    for _ in range(MOST_CHUNKS):
        stream.seek(position)
        header = stream.read(8)
        if len(header) < 8:
            return
        name, size = struct.unpack(order + "4sI", header)
        yield _Chunk(name, position + 8, size)
        position += 8 + size + size % 2


def _check_wav(stream: BinaryIO, form: bytes, size: int) -> tuple[list[tuple[int, bytes]], int]:
    """Patches, and how many bytes of no known meaning follow the samples."""
    order = ">" if form == b"RIFX" else "<"
    long_sizes = 0  # offset of the content of RF64's ds64 chunk
    for chunk in _chunks(stream, order):
        if chunk.name == b"ds64":
            long_sizes = chunk.start
        if chunk.name != b"data":
            continue
        counted = chunk.size
        if form == b"RF64" and long_sizes and counted in (0, UNKNOWN):
            stream.seek(long_sizes + 8)
            (counted,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
        rest = size - chunk.start
        if counted >= rest or _is_chunk(stream, chunk.start + counted, size, order):
            return [], 0
        if counted > 0:
            return [], rest - counted
        patches = [(chunk.start - 4, struct.pack(order + "I", UNKNOWN))]
        if long_sizes:
            patches += [(0, b"RIFF" + struct.pack("<I", UNKNOWN))]
        return patches, 0
    return [], 0


def _check_aiff(stream: BinaryIO, size: int) -> list[tuple[int, bytes]]:
    common: _Chunk | None = None
    for chunk in _chunks(stream, ">"):
        if chunk.name == b"COMM" and chunk.size >= 18:
            common = chunk
        rest = size - chunk.start
        # The samples follow 8 bytes of offset and block size.
        if chunk.name != b"SSND" or chunk.size > 8 or rest <= 8 or common is None:
            continue
        if _is_chunk(stream, chunk.start + 8, size, ">"):
            return []
        stream.seek(common.start)
        channels, _, bits = struct.unpack(">hIh", stream.read(8))
        frames = (rest - 8) // max(1, channels * ((bits + 7) // 8))
        return [(chunk.start - 4, struct.pack(">I", rest)), (common.start + 2, struct.pack(">I", frames))]
    return []


def _is_chunk(stream: BinaryIO, position: int, size: int, order: str) -> bool:
    """Whether a further chunk of the same file, padding or nothing stands here."""
    for start in (position, position + 1):  # chunks start at even positions, but not all writers know
        stream.seek(start)
        header = stream.read(8)
        if len(header) < 8:
            return True
        name, length = struct.unpack(order + "4sI", header)
        known = name.isascii() and name.decode("ascii").isprintable() and name not in (b"RIFF", b"RIFX", b"RF64")
        if known and length <= size - start - 8 + 1:
            return True
    return False
