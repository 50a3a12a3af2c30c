"""Grey images of more than 8 bits: black, white, and TIFFs unknown to Pillow."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image as Pillow

from vita.errors import MediaError
from vita.media.policy import ReadGuard

BLOCK_PIXELS = 1 << 22  # converted at a time, in whole rows
BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, SAMPLE_FORMAT = 258, 259, 262, 277, 339
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
# What an image of one grey channel needs: size, coding, strips or tiles, orientation, predictor, tables.
TIFF_TAGS = (256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 339, 347)
TIFF_TYPES = {1: "B", 3: "H", 4: "I", 7: "B", 16: "Q"}  # struct codes of the types these tags have
TEXT_TYPES = (1, 2, 6, 7)  # bytes and text: profiles and the like, which stay packed
DEEP = ((12, UNSIGNED), (16, UNSIGNED), (16, SIGNED), (32, UNSIGNED), (32, SIGNED), (32, FLOAT))  # (bits, format)
MAX_ENTRIES = 4096
MAX_VALUES = 1 << 20  # offsets of strips; an image has at most a million rows


@dataclass(frozen=True)
class GreyRange:
    """The values of a deep grey image that are shown as black and white.

    Attributes:
        black, white: `black` is larger where zero is white.
        unsigned: 32-bit values are unsigned, though Pillow reads them as signed.
    """

    black: float
    white: float
    unsigned: bool = False


def to_grey(image: Pillow.Image, shades: GreyRange | None, guard: ReadGuard, name: str) -> Pillow.Image:
    """Scale a decoded image of mode I, I;16 or F to 8 bits, in blocks of rows.

    Args:
        image: deep grey.
        shades: black and white; None: the smallest usual range that holds all values.
        guard: checked between blocks.
        name: for error sentences.

    Returns:
        Mode L.
    """
    shades = shades or _guess(image)
    step = max(1, BLOCK_PIXELS // image.width)
    out = np.empty((image.height, image.width), np.uint8)
    for top in range(0, image.height, step):
        guard.check(name)
        values = np.asarray(image.crop((0, top, image.width, min(image.height, top + step))))
        if shades.unsigned:
            values = values.view(np.uint32)
        # float64: 32-bit integers keep their order. NaN and infinities of a float image are black.
        level = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        level = (level - shades.black) / (shades.white - shades.black) * 255
        out[top : top + step] = level.clip(0, 255).astype(np.uint8)
    return Pillow.fromarray(out)


def _guess(image: Pillow.Image, *, white_is_zero: bool = False) -> GreyRange:
    """The range of an image whose file does not say what is white."""
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:
        usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        values = np.asarray(image)
        highest = float(values.max(initial=0, where=np.isfinite(values)))
        white = next((t for t in usual if highest <= t), highest)
    return GreyRange(white, 0.0) if white_is_zero else GreyRange(0.0, white)


def declared_range(image: Pillow.Image) -> GreyRange | None:
    """Black and white of a decoded image by what its file declares; None if it declares nothing."""
    if image.format == "PPM" and image.mode == "I":
        return GreyRange(0.0, 65535.0)  # Pillow has scaled it by its largest value
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return None
    bits, form = (_first(tags.get(tag), 1) for tag in (BITS, SAMPLE_FORMAT))
    return _range(image, bits, form, white_is_zero=_first(tags.get(PHOTOMETRIC), 1) == 0)


def _first(value: Any, default: int) -> int:
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return value if isinstance(value, int) else default


def _range(image: Pillow.Image, bits: int, form: int, *, white_is_zero: bool) -> GreyRange | None:
    """By bits per sample and sample format, as ImageMagick reads them: 32-bit integers are taken as unsigned.

    Signed 32-bit files are mostly counts or labels written by programs that know no other integer. So where all values
    fit into 16 bits, the range is guessed, as it is for floats.
    """
    if form == FLOAT or (form == SIGNED and bits == 32 and _within_16_bits(image)):
        return _guess(image, white_is_zero=white_is_zero)
    if form == SIGNED and bits == 16:
        low, high = -32768.0, 32767.0
    else:
        low, high = 0.0, float((1 << bits) - 1)
    shades = (high, low) if white_is_zero else (low, high)
    return GreyRange(*shades, unsigned=bits == 32)


def _within_16_bits(image: Pillow.Image) -> bool:
    values = np.asarray(image)
    return bool(values.min() >= 0 and values.max() <= 65535)


@dataclass(frozen=True)
class GreyTiff:
    """A rewritten TIFF that Pillow can open, and what the original declared."""

    stream: io.BytesIO
    bits: int
    form: int
    white_is_zero: bool

    def range(self, image: Pillow.Image) -> GreyRange | None:
        """Black and white of the decoded image."""
        return _range(image, self.bits, self.form, white_is_zero=self.white_is_zero)


def check_tiff(stream: BinaryIO, name: str) -> GreyTiff | None:
    """Bound the tables of a TIFF, and rewrite a deep grey one in a variant that Pillow knows.

    Pillow lacks most of the combinations with white-is-zero, and big-endian ones of 12 bits and of unsigned 32 bits.
    The pixels stay where they are; only a new directory is put behind them. The stream is left at its start.

    Returns:
        None for all files but a TIFF of one channel of 12, 16 or 32 bits.

    Raises:
        MediaError: a directory longer than any image needs.
    """
    stream.seek(0)
    head = stream.read(4)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = head[2:] if order == "<" else head[:1:-1]
    tags = _read_directory(stream, order, name, big=version == b"+\0") if order and version in (b"*\0", b"+\0") else {}
    stream.seek(0)
    bits, form, photometric, samples = (
        _first(tags[tag][1] if tag in tags else 1, 1) for tag in (BITS, SAMPLE_FORMAT, PHOTOMETRIC, SAMPLES)
    )
    if version == b"+\0" or samples != 1 or photometric not in (0, 1) or (bits, form) not in DEEP:
        return None
    tags[PHOTOMETRIC] = (3, (1,))
    if bits == 32 and form == UNSIGNED:
        tags[SAMPLE_FORMAT] = (3, (SIGNED,))
    # 12-bit samples are packed alike in both byte orders, and Pillow knows them in little-endian files.
    data = stream.read()
    stream.seek(0)
    return GreyTiff(_with_directory(data, tags, "<" if bits == 12 else order), bits, form, photometric == 0)


def _read_directory(stream: BinaryIO, order: str, name: str, *, big: bool) -> dict[int, tuple[int, tuple[int, ...]]]:
    """The wanted tags of the first directory: type and values."""

    def unpack(form: str, place: int) -> tuple[int, ...]:
        stream.seek(place)
        return struct.unpack(order + form, stream.read(struct.calcsize(order + form)))

    offset, entry_form, inline = ("Q", "HHQ", 8) if big else ("I", "HHI", 4)
    size = struct.calcsize(order + entry_form) + inline
    tags: dict[int, tuple[int, tuple[int, ...]]] = {}
    try:
        (start,) = unpack(offset, 8 if big else 4)
        (count,) = unpack("Q" if big else "H", start)
        first = start + (8 if big else 2)
        for entry in range(first, first + size * min(count, MAX_ENTRIES), size):
            tag, kind, length = unpack(entry_form, entry)
            if length > MAX_VALUES and kind not in TEXT_TYPES:
                raise MediaError("is an image with a table that is too long", where=name, fix="save it as PNG")
            if tag not in TIFF_TAGS or kind not in TIFF_TYPES or length > MAX_VALUES:
                continue
            form, place = f"{length}{TIFF_TYPES[kind]}", entry + size - inline
            if struct.calcsize(order + form) > inline:
                (place,) = unpack(offset, place)
            tags[tag] = (kind, unpack(form, place))
    except (struct.error, OverflowError, OSError, ValueError):  # outside the file; a place over 2^63 is no place
        return {}  # Pillow words what is damaged
    return tags


def _with_directory(data: bytes, tags: dict[int, tuple[int, tuple[int, ...]]], order: str) -> io.BytesIO:
    """The file with this directory behind its data."""
    out = io.BytesIO()
    out.write(data + b"\0" * (len(data) % 2))
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{TIFF_TYPES[kind]}", *values)
        if len(packed) > 4:
            place = out.tell()
            out.write(packed + b"\0" * (len(packed) % 2))
            packed = struct.pack(order + "I", place)
        entries.append(struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0"))
    start = out.tell()
    out.write(struct.pack(order + "H", len(entries)) + b"".join(entries) + b"\0\0\0\0")
    out.seek(0)
    out.write((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start))
    out.seek(0)
    return out
