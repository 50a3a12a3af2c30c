"""Images: parity with the reference, what a user sees of odd files, the limits, and the errors."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

import vita
from vita.config import ImagePreprocess, Tiling
from vita.errors import MediaError, RequestError
from vita.media.animation import open_animation
from vita.media.image import (
    choose_grid,
    cut_tiles,
    limit_tiles,
    load_image,
    load_image_with_notes,
    resize_and_crop,
)
from vita.media.normalise import normalise, normalise_pixels, to_pixels
from vita.media.source import Loaded
from vita.types import MediaOptions, MediaPolicy

MINI = Path(__file__).parents[1] / "goldens" / "mini"
REFERENCE = MediaOptions(reference=True)


def png(picture: Pillow.Image, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", **options)
    return out.getvalue()


def test_pixels_are_the_references_to_the_byte() -> None:
    wanted = json.loads((MINI / "model" / "model.json").read_text())["image"]["pixel_values_sha256_float32"]
    tiles = cut_tiles(load_image(MINI / "inputs" / "heldA.png", REFERENCE), Tiling(tile=112))
    pixels = to_pixels(tiles, ImagePreprocess(size=112, crop=112))
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == wanted


def test_several_threads_give_the_same_tiles_to_the_byte() -> None:
    picture = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (333, 901, 3), np.uint8))
    preprocess = ImagePreprocess(size=112, crop=112)
    with ThreadPoolExecutor(4) as pool:
        tiles = cut_tiles(picture, Tiling(tile=112), pool.map)
        values = resize_and_crop(tiles, preprocess, pool.map)
    wanted = resize_and_crop(cut_tiles(picture, Tiling(tile=112)), preprocess)
    assert len(values) == len(wanted) > 2
    assert all(np.array_equal(a, b) for a, b in zip(values, wanted, strict=True))


@pytest.mark.slow
def test_normalisation_on_a_gpu_gives_the_same_values_to_the_bit() -> None:
    preprocess, rng = ImagePreprocess(size=30, crop=30), np.random.default_rng(1)
    tiles = [rng.integers(0, 256, (30, 30, 3), np.uint8) for _ in range(3)]
    cpu = torch.device("cpu")
    looked_up = normalise_pixels(torch.from_numpy(np.stack(tiles)), preprocess)
    assert torch.equal(looked_up, normalise(tiles, preprocess, cpu)) and looked_up.is_contiguous()
    assert normalise(tiles, preprocess, torch.device("meta")).shape == (3, 3, 30, 30)


def test_the_seeds_picture_gives_five_tiles() -> None:
    picture = Pillow.new("RGB", (2798, 770))
    pixels = to_pixels(cut_tiles(picture, Tiling()), ImagePreprocess())
    assert list(pixels.shape) == [5, 3, 448, 448]


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 12))
def test_a_grid_is_one_of_the_nearest(width: int, height: int, most: int) -> None:
    tiling = Tiling(tile=224, max_tiles=most)
    cols, rows = choose_grid(width, height, tiling)
    assert 1 <= cols * rows <= most
    aspect = width / height
    nearest = min(abs(aspect - i / j) for i in range(1, most + 1) for j in range(1, most + 1) if i * j <= most)
    assert abs(aspect - cols / rows) == nearest


@pytest.mark.parametrize("least, most", [(1, 12), (1, 3), (4, 6)])
def test_a_request_may_ask_for_other_numbers_of_tiles_than_the_checkpoint(least: int, most: int) -> None:
    tiling = Tiling(tile=224, min_tiles=least, max_tiles=most)
    for size in ((900, 900), (1400, 385), (480, 640)):
        picture = Pillow.new("RGB", size)
        counts = [len(cut_tiles(picture, limit_tiles(tiling, asked))) for asked in range(1, 13)]
        assert counts[0] == 1, "one tile is the whole picture, with no thumbnail beside it"
        assert all(count == 1 or count - 1 <= asked for asked, count in enumerate(counts, 1)), counts
        assert cut_tiles(picture, limit_tiles(tiling, None)) == cut_tiles(picture, tiling)
    assert len(cut_tiles(Pillow.new("RGB", (1400, 385)), limit_tiles(tiling, 4))) == 5
    for asked in (0, -1, 13):
        with pytest.raises(RequestError, match=f"max_tiles: must be 1 to 12, not {asked}"):
            limit_tiles(tiling, asked)


def test_tiles_are_the_picture_cut_row_by_row_with_the_thumbnail_last() -> None:
    picture = Pillow.new("RGB", (448, 224))
    picture.paste((255, 0, 0), (0, 0, 224, 224))
    picture.paste((0, 0, 255), (224, 0, 448, 224))
    left, right, thumbnail = cut_tiles(picture, Tiling(tile=224))
    assert left.getpixel((10, 10)) == (255, 0, 0)
    assert right.getpixel((200, 200)) == (0, 0, 255)
    assert thumbnail.getpixel((10, 10)) == (255, 0, 0) and thumbnail.getpixel((213, 10)) == (0, 0, 255)


def test_exif_rotation_is_applied_unless_reference() -> None:
    picture = Pillow.new("RGB", (40, 20), "red")
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    out = io.BytesIO()
    picture.save(out, "JPEG", exif=exif)
    assert load_image(out.getvalue()).size == (20, 40)
    assert load_image(out.getvalue(), REFERENCE).size == (40, 20)


def test_transparency_is_put_on_white_unless_reference() -> None:
    data = png(Pillow.new("RGBA", (8, 8), (10, 20, 30, 0)))
    assert load_image(data).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(data, REFERENCE).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode in ("I;16", "I", "F"):
        source = Pillow.fromarray(np.full((6, 6), 32768 if mode != "F" else 128, np.uint16)).convert("I")
        picture = source if mode == "I" else source.convert(mode)
    else:
        picture = Pillow.new("RGB", (6, 6), "gray").convert(mode)
    loaded = load_image(picture)
    assert loaded.mode == "RGB"
    if mode in ("I;16", "I", "F", "L", "RGB", "RGBA"):
        assert all(abs(v - 128) <= 1 for v in loaded.getpixel((3, 3)))


def test_arrays_are_pictures_too() -> None:
    grey = np.full((5, 7), 9, np.uint8)
    assert load_image(grey).size == (7, 5)
    with pytest.raises(MediaError, match="not an image"):
        load_image(np.zeros((5, 7, 3), np.float32))


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    # A PNG that promises 60,000 x 60,000 pixels in a hundred bytes.
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 50)) + chunk(b"IEND", b"")
    with pytest.raises(MediaError, match="million pixels"):
        load_image(data)


def test_the_pixel_limit_names_the_size() -> None:
    with pytest.raises(MediaError, match="300x200"):
        load_image(png(Pillow.new("RGB", (300, 200))), MediaOptions(policy=MediaPolicy(max_pixels=50_000)))


def test_errors_say_what_and_where(tmp_path: Path) -> None:
    good = png(Pillow.effect_noise((64, 64), 50))
    cases = {
        "missing.png": (None, "no such file"),
        "empty.png": (b"", "is empty"),
        "text.png": (b"hello, world, this is text", "not an image"),
        "cut.png": (good[: len(good) // 2], "damaged or truncated"),
    }
    for name, (data, sentence) in cases.items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(MediaError, match=sentence) as caught:
            load_image(path)
        assert name in str(caught.value)
    with pytest.raises(MediaError, match="is a folder"):
        load_image(tmp_path)


def test_a_url_without_network_is_one_sentence() -> None:
    options = MediaOptions(policy=MediaPolicy(allow_private_hosts=True))
    with pytest.raises(MediaError, match="could not be fetched"):
        load_image("http://127.0.0.1:9/picture.png", options)


def test_a_data_url_is_read() -> None:
    import base64

    data = base64.b64encode(png(Pillow.new("RGB", (3, 4)))).decode()
    assert load_image(f"data:image/png;base64,{data}").size == (3, 4)
    with pytest.raises(MediaError, match="base64"):
        load_image("data:image/png;base64,@@@")


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"]))
def test_garbage_gives_only_media_errors(body: bytes, head: bytes) -> None:
    with contextlib.suppress(MediaError):
        load_image(head + body)


def test_grids_of_the_reference(big_goldens: Path) -> None:
    data = json.loads((big_goldens / "tiny" / "grids.json").read_text())
    for size in data["sizes"]:
        for side in ("448", "224"):
            grid = choose_grid(size["w"], size["h"], Tiling(tile=int(side)))
            assert grid == (size[side]["cols"], size[side]["rows"])


# A JPEG without its end.


def jpeg(image: Pillow.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


BARS = Pillow.linear_gradient("L").resize((96, 64))
JPEGS: dict[str, bytes] = {
    "baseline": jpeg(Pillow.merge("RGB", (BARS, BARS.transpose(Pillow.Transpose.ROTATE_180), BARS))),
    "progressive": jpeg(BARS.convert("RGB"), progressive=True),
    "grey": jpeg(BARS),
    "CMYK": jpeg(BARS.convert("CMYK")),
    "restarts": jpeg(BARS.convert("RGB"), restart_marker_blocks=2),
    "no subsampling": jpeg(BARS.convert("RGB"), subsampling=0),
    "EXIF": jpeg(BARS.convert("RGB"), exif=Pillow.Exif().tobytes() or b"", comment=b"\xff\xd9 not the end"),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_without_its_end_marker_is_shown_whole_with_a_note(kind: str, tmp_path: Path) -> None:
    data = JPEGS[kind]
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:-2])
    whole = load_image_with_notes(data)
    assert whole.notes == ()
    loaded = load_image_with_notes(path)
    assert loaded.notes == (f"{path}: it breaks off before its end; what could be read was used.",)
    assert np.array_equal(np.asarray(loaded.image), np.asarray(whole.image))
    for cut in (data[:-1], data[:-2] + b"\xff"):
        assert np.array_equal(np.asarray(load_image(cut)), np.asarray(whole.image))
    opened = Pillow.open(io.BytesIO(data[:-2]))
    for _ in range(2):
        assert load_image_with_notes(opened).image.size == (96, 64)


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_cut_anywhere_shows_what_is_there(kind: str) -> None:
    data = JPEGS[kind]
    first = data.index(b"\xff\xda")  # the first scan; its coded data begins behind its header
    first += 2 + int.from_bytes(data[first + 2 : first + 4], "big")
    whole = np.asarray(load_image(data)).astype(int)
    best = 0
    for end in range(2, len(data) - 2, max(1, len(data) // 60)):
        if end <= first:
            with pytest.raises(MediaError, match=r"damaged or truncated|not an image"):
                load_image(data[:end])
            continue
        loaded = load_image_with_notes(data[:end])
        assert loaded.image.size == (96, 64) and len(loaded.notes) == 1
        near = (np.abs(np.asarray(loaded.image).astype(int) - whole).max(axis=2) < 3).mean()
        best = max(best, near)
    assert best > 0.7


SIDE_SEGMENTS = st.tuples(
    st.sampled_from([0xE0, 0xE1, 0xE2, 0xE5, 0xED, 0xEE, 0xFE]),
    st.sampled_from([b"", b"JFIF\0", b"Exif\0\0", b"ICC_PROFILE\0", b"ICC_PROFILE\0\1\1",
                     b"Photoshop 3.0\0" b"8BIM\4\4", b"MPF\0", b"MPF\0MM\0*\0\0\0\x08",
                     b"http://ns.adobe.com/xap/1.0/\0", b"Adobe"]),
    st.binary(max_size=30),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(SIDE_SEGMENTS, max_size=4))
def test_side_segments_never_spoil_the_pixels_of_a_jpeg(segments: list[tuple[int, bytes, bytes]]) -> None:
    data = JPEGS["grey"]
    side = b"".join(bytes([0xFF, m]) + struct.pack(">H", len(h + b) + 2) + h + b for m, h, b in segments)
    assert np.array_equal(np.asarray(load_image(data[:2] + side + data[2:])), np.asarray(load_image(data)))


def test_orientation_survives_a_bad_segment_beside_it() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    data = jpeg(BARS.convert("CMYK"), exif=exif)
    wanted = load_image(data)
    spoiled = load_image(data[:2] + b"\xff\xee\0\7Adobe" + data[2:])
    assert spoiled.size == (64, 96) and np.array_equal(np.asarray(spoiled), np.asarray(wanted))


def test_damage_inside_a_jpeg_is_no_reason_to_refuse() -> None:
    data = bytearray(JPEGS["restarts"])
    middle = data.index(b"\xff\xd3", len(data) // 2)
    data[middle - 6 : middle] = bytes(6)
    assert load_image(bytes(data)).size == (96, 64)


def test_the_note_reaches_the_answer(mini_model: vita.Vita) -> None:
    result = mini_model.ask("What?", images=[JPEGS["baseline"][:-40]], params=vita.SamplingParams(max_tokens=2))
    assert [note for note in result.notes if "breaks off before its end" in note]


# Limits before the work.


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    data = jpeg(Pillow.effect_noise((256, 256), 50), progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[last:-2] * 40 + data[-2:]
    assert load_image(bomb).size == (256, 256), "a small one costs little"
    tight = MediaOptions(policy=MediaPolicy(max_pixels=70_000))
    assert load_image(data, tight).size == (256, 256)
    with pytest.raises(MediaError, match=r"JPEG of \d\d scans"):
        load_image(bomb, tight)


def test_an_ico_is_measured_by_the_images_inside() -> None:
    inner = png(Pillow.new("1", (3000, 3000)))
    head = b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    options = MediaOptions(policy=MediaPolicy(max_pixels=1_000_000))
    with pytest.raises(MediaError, match="3000x3000"):
        load_image(head + inner, options)
    assert load_image(head + inner).size == (3000, 3000)


def test_formats_decoded_slowly_have_a_lower_limit() -> None:
    side = 8000
    qoi = b"qoif" + struct.pack(">IIBB", side, side, 3, 0) + b"\xfd" * (side * side // 62 + 1) + bytes(7) + b"\1"
    for data in (qoi, b"P2 8000 8000 255\n" + b"1 " * 100, b"P5 8000 8000 4095\n" + bytes(100)):
        with pytest.raises(MediaError, match="decodes slowly"):
            load_image(data)


def test_a_side_has_a_limit_of_its_own() -> None:
    with pytest.raises(MediaError, match="has a side of more than 1,000,000 pixels"):
        load_image(Pillow.new("1", (1_000_001, 1)))


# Whatever the bytes.


def _bases() -> dict[str, bytes]:
    image = Pillow.effect_noise((40, 30), 60)
    colour = Pillow.merge("RGB", (image, image.rotate(90).resize((40, 30)), image.rotate(180)))
    frames = [colour.rotate(k * 40) for k in range(4)]
    bases = {"ppm": b"P2 3 2 99\n1 2 3 4 5 66"}
    for kind, source, options in (
        ("PNG", colour, {}), ("PNG", image.convert("P"), {}),
        ("PNG", colour, {"save_all": True, "append_images": frames}),
        ("JPEG", colour, {}), ("JPEG", colour, {"progressive": True}), ("GIF", image, {}),
        ("GIF", colour, {"save_all": True, "append_images": frames}), ("WEBP", colour, {}),
        ("WEBP", colour, {"save_all": True, "append_images": frames}), ("BMP", colour, {}), ("TIFF", colour, {}),
        ("TIFF", image.convert("I;16"), {}), ("TIFF", colour, {"compression": "tiff_lzw"}), ("PPM", colour, {}),
        ("TGA", colour, {"compression": "tga_rle"}), ("ICO", colour, {}), ("JPEG2000", colour, {}), ("QOI", colour, {}),
        ("DDS", colour, {}), ("MPO", colour, {"save_all": True, "append_images": frames}),
    ):  # fmt: skip
        out = io.BytesIO()
        with contextlib.suppress(KeyError, OSError):  # this Pillow cannot write it
            source.save(out, kind, **options)
            bases[f"{kind} {len(bases)}"] = out.getvalue()
    return bases


def _mutated(data: bytes, random: np.random.Generator) -> bytes:
    out = bytearray(data)
    how = int(random.integers(6))
    if how == 0:
        return bytes(out[: int(random.integers(1, len(out)))])
    if how == 1:
        start = int(random.integers(len(out)))
        return bytes(out[:start] + out[start + int(random.integers(1, 40)) :])
    if how == 2:
        start = int(random.integers(len(out)))
        return bytes(out[:start] + random.bytes(int(random.integers(1, 40))) + out[start:])
    reach = min(len(out), 64) if how == 3 else len(out)  # headers decide most
    for _ in range(int(random.integers(1, 8))):
        place = int(random.integers(reach))
        out[place] = int(random.choice([0, 1, 127, 128, 254, 255, int(random.integers(256))]))
    return bytes(out)


@pytest.mark.parametrize("times", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_mutated_files_give_an_image_or_one_sentence(times: int) -> None:
    random = np.random.default_rng(20261126)
    options = MediaOptions(policy=MediaPolicy(max_pixels=1_000_000))
    shown = refused = 0
    for name, data in _bases().items():
        for _ in range(times):
            case = _mutated(data, random)
            try:
                image = load_image(case, options)
                assert image.mode == "RGB" and image.width * image.height <= 1_000_000
                shown += 1
            except MediaError as error:
                assert "\n" not in str(error), name
                refused += 1
            if name.startswith(("GIF", "PNG", "WEBP")):
                with contextlib.suppress(MediaError):
                    animation = open_animation(Loaded("a", data=case), options)
                    if animation is not None:
                        animation.decode(list(range(len(animation.times))), options)
    assert shown > 50 and refused > 50
