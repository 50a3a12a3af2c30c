"""Small image files made by hand: PNG of every depth, TIFF of every depth, and their bytes cut apart."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
CODES = {(8, 1): "B", (8, 2): "b", (16, 1): "H", (16, 2): "h", (32, 1): "I", (32, 2): "i", (32, 3): "f"}


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", crc if crc is not None else zlib.crc32(kind + body))
    )


def make_png(
    rows: Sequence[Sequence[tuple[int, ...]]], depth: int, colour: int, before: bytes = b"", after: bytes = b"",
    *, interlaced: bool = False,
) -> bytes:  # fmt: skip
    """A PNG of these samples, with chunks before and after its pixels."""
    height, width = len(rows), len(rows[0])
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    raw = b""
    for x0, y0, dx, dy in passes:
        for y in range(y0, height, dy):
            pixels = rows[y][x0::dx]
            if pixels:
                raw += b"\0" + _pack([s for p in pixels for s in p], depth)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced)))
    return SIGNATURE + header + before + chunk(b"IDAT", zlib.compress(raw)) + after + chunk(b"IEND", b"")


def _pack(samples: list[int], depth: int) -> bytes:
    bits = "".join(f"{s:0{depth}b}" for s in samples)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def make_tiff(values: Sequence[float], bits: int, form: int, photometric: int, order: str, extra: bytes = b"") -> bytes:
    """One row of grey; `form` is 1 unsigned, 2 signed, 3 float; `extra` is one more directory entry."""
    if bits in (10, 12, 14):
        data = _pack([int(v) for v in values], bits)
    else:
        data = struct.pack(f"{order}{len(values)}{CODES[bits, form]}", *values)
    data += b"\0" * (len(data) % 2)
    entries = [(256, 3, len(values)), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
               (277, 3, 1), (278, 3, 1), (279, 4, len(data)), (339, 3, form)]  # fmt: skip
    out = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(data)) + data
    out += struct.pack(order + "H", len(entries) + bool(extra))
    for tag, kind, value in entries:
        body = struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
        out += struct.pack(order + "HHI", tag, kind, 1) + body
    return out + extra + bytes(4)
