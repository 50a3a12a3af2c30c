"""PNG: chunk limits, damaged side chunks, colour-key transparency (tRNS)."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFile

from vita.errors import MediaError
from vita.media.formats import open_listed

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 200_000  # Pillow takes microseconds for each, also for empty ones
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"fcTL", b"fdAT", b"IEND")  # kept without a check; Pillow makes its own
CHECKED_CHUNKS = (b"tRNS", b"eXIf", b"acTL")  # they change what is shown, so they are kept if they are valid
NEXT_CHUNK = re.compile(rb"PLTE|tRNS|acTL|fcTL|IDAT|IEND")
TRNS_LENGTHS = {0: (2, 2), 2: (6, 6), 3: (1, 256)}  # by colour type
SEARCH_BYTES = 1 << 20  # looked through for the next chunk after a wrong length
MAX_SEARCHES = 16
EXIF_LIMIT = 1 << 20  # bytes; the standard's own limit is 64 KB
# Bits per sample by Pillow's raw mode.
DEPTHS = {"1": 1, "L;2": 2, "L;4": 4, "L": 8, "RGB": 8, "I;16B": 16, "RGB;16B": 16}


class Chunk(NamedTuple):
    kind: bytes
    start: int  # of the length field
    length: int  # of the body


def check_png(stream: BinaryIO, name: str) -> int:
    """Walk over the chunk headers; the stream is left at its start.

    Returns:
        The number of animation frames (fcTL chunks); 0 for a file that is not a PNG.

    Raises:
        MediaError: so many chunks that reading them would take minutes.
    """
    frames = 0
    for count, chunk in enumerate(_chunks(stream)):
        frames += chunk.kind == b"fcTL"
        if count >= MAX_CHUNKS:
            raise MediaError(f"has more than {MAX_CHUNKS:,} chunks", where=name, fix="save it again")
    stream.seek(0)
    return frames


def pixel_chunks_only(stream: BinaryIO) -> io.BytesIO:
    """The same PNG without text, profiles and other side chunks, and without damaged transparency or EXIF."""
    stream.seek(0)
    data = stream.read()
    out = io.BytesIO()
    out.write(SIGNATURE)
    colour = data[25] if len(data) > 25 else 0
    for kind, start, length in _chunks(io.BytesIO(data)):
        record = data[start : start + 12 + length]
        body = record[8 : 8 + length]
        if kind in PIXEL_CHUNKS or (kind in CHECKED_CHUNKS and _is_valid(kind, body, record[8 + length :], colour)):
            out.write(record)
    out.seek(0)
    return out


def _chunks(stream: BinaryIO) -> Iterator[Chunk]:
    """The chunks up to IEND. After a wrong length, goes on at the next chunk that matters for the pixels."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if stream.read(8) != SIGNATURE:
        return
    start, last, searches = 8, 0, 0
    while True:
        stream.seek(start)
        head = stream.read(8)
        kind, length = head[4:], int.from_bytes(head[:4], "big")
        if len(head) == 8 and kind.isalpha() and (length <= size - start - 12 or kind in PIXEL_CHUNKS):
            yield Chunk(kind, start, length)
            if kind == b"IEND":
                return
            last, start = start, start + 12 + length
            continue
        # The length of the last chunk may be wrong, so its body is searched too.
        stream.seek(last + 8)
        found = NEXT_CHUNK.search(stream.read(SEARCH_BYTES))
        searches += 1
        if found is None or found.start() < 4 or searches > MAX_SEARCHES:
            return
        start = last = last + 8 + found.start() - 4


def _is_valid(kind: bytes, body: bytes, crc: bytes, colour: int) -> bool:
    if zlib.crc32(kind + body).to_bytes(4, "big") != crc:
        return False
    if kind == b"tRNS":
        least, most = TRNS_LENGTHS.get(colour, (0, -1))
        return least <= len(body) <= most
    return len(body) <= EXIF_LIMIT if kind == b"eXIf" else len(body) == 8


def prepare_key(image: Pillow.Image) -> np.ndarray[Any, Any] | None:
    """Bring the colour key of an opened PNG that is not yet decoded to the scale of Pillow's pixels.

    Pillow widens grey of 2 and 4 bits to 8 but not the key, and drops the low byte of RGB with 16 bits.

    Returns:
        Of RGB with 16 bits and a key: bool `[height, width]`, True where the pixel is the key. Else None.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None or not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return None
    rawmode = image.tile[0][3]
    depth = DEPTHS.get(rawmode) if isinstance(rawmode, str) else None
    if isinstance(key, int) and depth in (2, 4):
        most = (1 << depth) - 1
        image.info["transparency"] = (key & most) * 255 // most
    elif isinstance(key, int) and depth == 8:
        image.info["transparency"] = key & 255
    elif isinstance(key, tuple) and depth == 8:
        image.info["transparency"] = tuple(k & 255 for k in key)
    elif isinstance(key, tuple) and depth == 16 and not getattr(image, "is_animated", False):
        del image.info["transparency"]
        low = _low_bytes(image)
        image.load()
        high = np.asarray(image)
        same = [(high[..., c] == key[c] >> 8) & (low[..., c] == key[c] & 255) for c in range(3)]
        return np.asarray(same[0] & same[1] & same[2])
    return None


def _low_bytes(image: ImageFile.ImageFile) -> np.ndarray[Any, Any]:
    """The low bytes of RGB with 16 bits, uint8 `[h, w, 3]`: the file decoded as if it were little-endian."""
    assert image.fp is not None
    place = image.fp.tell()
    image.fp.seek(0)
    second = open_listed(io.BytesIO(image.fp.read()))
    image.fp.seek(place)
    assert isinstance(second, ImageFile.ImageFile)
    second.tile = [tile._replace(args="RGB;16L") for tile in second.tile]
    second.info.pop("transparency", None)
    return np.asarray(second)
