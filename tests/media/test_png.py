"""PNG: colour keys at every depth, and side chunks that must not spoil the pixels."""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from tests.media.image_files import SIGNATURE, chunk, make_png

from vita.errors import MediaError
from vita.media.image import load_image, load_image_with_notes
from vita.types import MediaOptions

RED = [[(200, 30, 30)] * 4] * 4
INTERESTING = {1: [0, 1], 2: [0, 1, 2, 3], 4: list(range(16)), 8: [0, 1, 85, 127, 254, 255],
               16: [0, 1, 255, 256, 4660, 21845, 32767, 65279, 65534, 65535]}  # fmt: skip


def pixels(data: bytes, options: MediaOptions | None = None) -> np.ndarray:
    return np.asarray(load_image(data, options)).astype(int)


@pytest.mark.parametrize("interlaced", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize("depth", INTERESTING)
def test_the_key_of_grey_is_white_and_nothing_else(depth: int, interlaced: bool) -> None:
    values = INTERESTING[depth]
    rows = [[(v,) for v in values] * 3] * 3
    for key in values:
        shown = pixels(make_png(rows, depth, 0, chunk(b"tRNS", struct.pack(">H", key)), interlaced=interlaced))
        wanted = [255 if v == key else v * 255 // ((1 << depth) - 1) for v in values] * 3
        assert (shown == np.array(wanted)[None, :, None]).all(), (key, shown[0, :, 0], wanted)


@pytest.mark.parametrize("interlaced", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize("depth", [8, 16])
def test_the_key_of_rgb_is_white_and_nothing_else(depth: int, interlaced: bool) -> None:
    values = [0, 77, 255] if depth == 8 else [0x1234, 0x1235, 0x3412, 0xFF00]
    colours = list(itertools.product(values, repeat=3))
    for key in colours[:: 5 if depth == 8 else 13]:
        data = make_png([colours] * 2, depth, 2, chunk(b"tRNS", struct.pack(">3H", *key)), interlaced=interlaced)
        shown = pixels(data)[0]
        wanted = [(255,) * 3 if c == key else tuple(v >> (depth - 8) for v in c) for c in colours]
        assert (shown == np.array(wanted)).all(), key


def test_a_key_wider_than_its_samples_uses_its_low_bits() -> None:
    for depth in (2, 4, 8):
        data = make_png([[(1,), (2,)]], depth, 0, chunk(b"tRNS", struct.pack(">H", 0xFF00 | 1)))
        assert pixels(data)[0, 0, 0] == 255 and pixels(data)[0, 1, 0] == 2 * 255 // ((1 << depth) - 1)
    data = make_png([[(1, 2, 3), (1, 2, 4)]], 8, 2, chunk(b"tRNS", struct.pack(">3H", 0x101, 0x202, 3)))
    assert pixels(data)[0].tolist() == [[255] * 3, [1, 2, 4]]


def test_a_picture_opened_by_the_caller_has_the_same_key() -> None:
    for depth, colour, key in ((4, 0, (5,)), (16, 0, (21845,)), (16, 2, (0x1234, 0x1235, 0x1236))):
        rows = [[key, tuple(v ^ 1 for v in key)]]
        data = make_png(rows, depth, colour, chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
        opened = Pillow.open(io.BytesIO(data))
        for _ in range(2):
            shown = np.asarray(load_image(opened))
            assert (shown == pixels(data)).all() or colour == 2
            assert (shown[0, 0] == 255).all()
            assert (shown[0, 1] != 255).any()


def test_the_reference_drops_the_key() -> None:
    data = make_png([[(5,), (0,)]], 4, 0, chunk(b"tRNS", struct.pack(">H", 5)))
    assert pixels(data, MediaOptions(reference=True))[0].tolist() == [[85] * 3, [0] * 3]


BIG = zlib.compress(bytes(3 << 20))
BAD = 12345
SIDE_CHUNKS = {
    "zTXt too large": chunk(b"zTXt", b"key\0\0" + BIG),
    "iTXt too large": chunk(b"iTXt", b"key\0\1\0\0\0" + BIG),
    "iCCP too large": chunk(b"iCCP", b"name\0\0" + BIG),
    "iCCP of another method": chunk(b"iCCP", b"name\0\7" + BIG),
    "zTXt of another method": chunk(b"zTXt", b"key\0\7xx"),
    "70 zTXt of 1 MB": chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes((1 << 20) - 100))) * 70,
    **{f"{kind.decode()} with a bad CRC": chunk(kind, body, BAD) for kind, body in (
        (b"tEXt", b"key\0value"), (b"zTXt", b"key\0\0x"), (b"iTXt", b"k"), (b"gAMA", bytes(4)), (b"pHYs", bytes(9)),
        (b"cHRM", bytes(32)), (b"sRGB", b"\0"), (b"iCCP", b"x"), (b"tRNS", bytes(6)), (b"bKGD", bytes(6)),
        (b"tIME", bytes(7)), (b"eXIf", b"MM\0*"), (b"prVt", b"anything"), (b"acTL", bytes(8)), (b"sBIT", bytes(3)),
    )},
    **{f"{kind.decode()} too short": chunk(kind, b"\1") for kind in (b"gAMA", b"pHYs", b"cHRM", b"tRNS", b"acTL")},
    **{f"{kind.decode()} empty": chunk(kind, b"") for kind in (
        b"gAMA", b"pHYs", b"cHRM", b"tRNS", b"acTL", b"sRGB", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"bKGD",
    )},
    "a wrong length": struct.pack(">I", 7) + b"tEXt" + b"key\0value" + bytes(4),
    "a length beyond the file": struct.pack(">I", 1 << 30) + b"tEXt" + b"key\0value" + bytes(4),
    "no chunk at all": b"\0\1\2\3 not a chunk at all, no",
    "tRNS too long": chunk(b"tRNS", bytes(50)),
    "EXIF of garbage": chunk(b"eXIf", b"\xff" * 100),
}  # fmt: skip


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("case", SIDE_CHUNKS)
def test_a_side_chunk_never_spoils_the_pixels(case: str, where: str) -> None:
    side = SIDE_CHUNKS[case]
    data = make_png(RED, 8, 2, side if where == "before" else b"", side if where == "after" else b"")
    loaded = load_image_with_notes(data)
    assert np.asarray(loaded.image).tolist() == [[list(c) for c in row] for row in RED]
    assert loaded.notes == ()
    assert load_image(data, MediaOptions(reference=True)).getpixel((0, 0)) == (200, 30, 30)


def test_what_changes_the_picture_survives_a_bad_neighbour() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    side = chunk(b"pHYs", b"") + chunk(b"eXIf", exif.tobytes()[6:]) + chunk(b"tRNS", struct.pack(">3H", 200, 30, 30))
    image = load_image(make_png([RED[0]] * 2, 8, 2, side))
    assert image.size == (2, 4), "turned"
    assert image.getpixel((0, 0)) == (255, 255, 255), "transparent"
    palette = chunk(b"PLTE", bytes([200, 30, 30, 1, 2, 3])) + chunk(b"gAMA", b"") + chunk(b"tRNS", b"\xff\0")
    assert pixels(make_png([[(0,), (1,)]], 8, 3, palette))[0].tolist() == [[200, 30, 30], [255, 255, 255]]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(
        st.sampled_from([b"tEXt", b"zTXt", b"iCCP", b"gAMA", b"pHYs", b"cHRM", b"sRGB", b"prVt", b"bKGD", b"sBIT"]),
        st.binary(max_size=40), st.booleans(), st.booleans(),
    ), max_size=6)
)  # fmt: skip
def test_any_side_chunks_leave_the_pixels(sides: list[tuple[bytes, bytes, bool, bool]]) -> None:
    parts = [(chunk(kind, body, None if sound else BAD), early) for kind, body, sound, early in sides]
    before, after = (b"".join(c for c, early in parts if early is wanted) for wanted in (True, False))
    assert pixels(make_png(RED, 8, 2, before, after)).tolist() == [[list(c) for c in row] for row in RED]


def test_a_file_of_nothing_but_chunks_is_refused_in_time() -> None:
    data = SIGNATURE + make_png(RED, 8, 2)[8:33] + chunk(b"teSt", b"") * 250_000 + make_png(RED, 8, 2)[33:]
    with pytest.raises(MediaError, match="200,000 chunks"):
        load_image(data)


def test_critical_damage_is_still_refused() -> None:
    good = make_png(RED, 8, 2)
    for data in (
        good[:33], good[:40], SIGNATURE, SIGNATURE + good[33:], good.replace(b"IDAT", b"IDAX"),
        make_png(RED, 8, 2).replace(b"IHDR", b"IHDX"), make_png([[(0,)]], 8, 3),
    ):  # fmt: skip
        with pytest.raises(MediaError):
            load_image(data)
