"""Grey of more than 8 bits: TIFF of every depth, sign, order and photometric interpretation, and PGM."""

from __future__ import annotations

import io
import struct
import time
from itertools import product

import numpy as np
import pytest
from PIL import Image as Pillow
from tests.media.image_files import make_tiff

from vita.errors import MediaError
from vita.media.image import load_image
from vita.types import MediaOptions


def row(data: bytes) -> list[int]:
    image = load_image(data)
    assert image.mode == "RGB"
    return [int(v) for v in np.asarray(image)[0, :, 0]]


# Values and the grey they are shown in where zero is black, as ImageMagick 6.9 shows them.
CASES: dict[tuple[int, int], tuple[list[float], list[int]]] = {
    (8, 1): ([0, 10, 128, 255], [0, 10, 128, 255]),
    (12, 1): ([0, 200, 2048, 4095], [0, 12, 127, 255]),
    (16, 1): ([0, 200, 32768, 65535], [0, 0, 127, 255]),
    (16, 2): ([-32768, -16384, 0, 16384, 32767], [0, 63, 127, 191, 255]),
    (32, 1): ([0, 200, 1 << 30, 1 << 31, 3 << 30, (1 << 32) - 1], [0, 0, 63, 127, 191, 255]),
    (32, 2): ([0, 1 << 30, (1 << 31) - 1], [0, 63, 127]),
    (32, 3): ([0, 0.25, 0.5, 1], [0, 63, 127, 255]),
}


@pytest.mark.parametrize("bits, form", CASES)
def test_a_tiff_shows_what_it_declares(bits: int, form: int) -> None:
    values, greys = CASES[bits, form]
    for order, photometric in product("<>", (0, 1)):
        wanted = greys if photometric == 1 else [255 - g for g in greys]
        shown = row(make_tiff(values, bits, form, photometric, order))
        assert max(abs(a - b) for a, b in zip(shown, wanted, strict=True)) <= 1, (order, photometric, shown, wanted)


@pytest.mark.parametrize("bits, form", [(12, 1), (16, 1), (32, 1), (16, 2)])
def test_a_dark_picture_stays_dark(bits: int, form: int) -> None:
    low = -32768 if form == 2 else 0
    assert max(row(make_tiff([low, low + 5, low + 15], bits, form, 1, "<"))) <= 1


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["I;16", "F", "I"])
def test_compressed_tiffs_with_zero_as_white_are_turned_round(mode: str, compression: str) -> None:
    values = np.linspace(0, 1, 64).reshape(1, 64).repeat(9, 0)
    array = {"I;16": (values * 65535).astype(np.uint16), "F": values.astype(np.float32),
             "I": (values * 65535).astype(np.int32)}[mode]  # fmt: skip
    out = io.BytesIO()
    Pillow.fromarray(array).save(out, "TIFF", compression=compression)
    data = bytearray(out.getvalue())
    shown = row(bytes(data))
    entry = data.index(struct.pack("<HHI", 262, 3, 1))
    data[entry + 8 : entry + 10] = b"\0\0"
    turned = row(bytes(data))
    assert all(abs(a + b - 255) <= 1 for a, b in zip(shown, turned, strict=True))
    assert mode == "I" or (shown[0] == 0 and shown[-1] == 255)


def test_unusual_depths_are_refused_in_a_sentence() -> None:
    for bits in (10, 14):
        with pytest.raises(MediaError):
            load_image(make_tiff([0, 100, 900], bits, 1, 1, "<"))


@pytest.mark.parametrize("largest", [1, 200, 255, 256, 1000, 4095, 65535])
def test_a_pgm_is_scaled_by_its_largest_value(largest: int) -> None:
    values = [0, largest // 4, largest // 2, largest]
    code = "4B" if largest < 256 else ">4H"
    data = b"P5 4 1 %d\n" % largest + struct.pack(code, *values)
    assert max(abs(a - v * 255 / largest) for a, v in zip(row(data), values, strict=True)) <= 1
    plain = b"P2 4 1 %d\n" % largest + b" ".join(b"%d" % v for v in values)
    assert max(abs(a - v * 255 / largest) for a, v in zip(row(plain), values, strict=True)) <= 1


def test_signed_integers_of_32_bits_that_are_small_are_shown_in_their_range() -> None:
    for order, (values, wanted) in product("<>", (([0, 127, 255], [0, 127, 255]), ([0, 32768, 65535], [0, 127, 255]))):
        assert row(make_tiff(values, 32, 2, 1, order)) == wanted
        assert row(make_tiff(values, 32, 2, 0, order)) == [255, 128 if values[1] == 127 else 127, 0]


def test_a_dark_pgm_of_sixteen_bits_is_dark() -> None:
    assert max(row(b"P5 4 1 65535\n" + struct.pack(">4H", 0, 50, 100, 200))) == 0


def test_floats_that_are_no_numbers_are_black() -> None:
    shown = row(make_tiff([0, float("nan"), float("inf"), float("-inf"), 1], 32, 3, 1, "<"))
    assert shown == [0, 0, 0, 0, 255]


def test_deep_grey_from_a_caller_is_shown_in_the_range_it_uses() -> None:
    for mode, top in (("I", 255), ("I", 65535), ("F", 1.0), ("F", 255.0), ("I;16", 65535)):
        values = np.array([[0, top / 2, top]])
        image = Pillow.fromarray(values.astype({"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]))
        assert image.mode == mode
        assert [int(v) for v in np.asarray(load_image(image))[0, :, 0]] == [0, 127, 255]


def test_orientation_counts_for_deep_grey() -> None:
    entry = struct.pack("<HHIHH", 274, 3, 1, 3, 0)  # upside down
    assert row(make_tiff([0, 65535], 16, 1, 0, "<", entry)) == [0, 255]
    assert load_image(make_tiff([0, 65535], 16, 1, 1, "<", entry)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("order", "<>")
def test_a_table_as_long_as_a_header_says_is_not_made(order: str) -> None:
    entry = struct.pack(order + "HHII", 40000, 4, 1 << 30, 8)
    with pytest.raises(MediaError, match="table that is too long"):
        load_image(make_tiff([0, 1], 16, 1, 1, order, entry))
    strips = struct.pack(order + "HHII", 278, 12, (1 << 32) - 1, 8)
    before = time.process_time()
    with pytest.raises(MediaError):
        load_image(make_tiff([0, 1], 8, 1, 1, order, strips))
    assert time.process_time() - before < 5


def test_the_reference_converts_as_pillow_does() -> None:
    data = make_tiff([0, 100, 65535], 16, 1, 1, "<")
    with Pillow.open(io.BytesIO(data)) as image:
        wanted = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(load_image(data, MediaOptions(reference=True))), wanted)
