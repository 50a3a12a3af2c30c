"""Open an image file, check its limits, repair small damage, decode it to RGB."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import ExifTags, ImageFile, UnidentifiedImageError
from PIL import Image as Pillow

from vita.errors import Cancelled, MediaError
from vita.media.formats import HEAD_BYTES, open_listed, refuse_by_head, sizes_in_ico
from vita.media.grey import BLOCK_PIXELS, GreyRange, check_tiff, declared_range, to_grey
from vita.media.jpeg import START as JPEG_START
from vita.media.jpeg import closed_jpeg, pixel_segments_only, scan_jpeg
from vita.media.png import SIGNATURE as PNG_SIGNATURE
from vita.media.png import check_png, pixel_chunks_only, prepare_key
from vita.media.policy import ReadGuard
from vita.types import MediaOptions

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
MAX_SIDE = 1_000_000  # pixels; Pillow's tables for resizing take 32 bytes for each
MAX_SCANS = 16  # of a JPEG of the largest allowed size; a progressive one has about ten, each as much work
MAX_PYTHON_PIXELS = 16_000_000  # for formats that Pillow decodes in Python, a microsecond or more a pixel
USUAL = "use PNG, JPEG, WebP or GIF"
BROKEN_OFF = "it breaks off before its end; what could be read was used."
# EXIF orientation to what turns the image upright.
UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT, 3: Pillow.Transpose.ROTATE_180, 4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE, 6: Pillow.Transpose.ROTATE_270, 7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}  # fmt: skip

# Black and white of a deep grey image once it is open.
Shades: TypeAlias = Callable[[Pillow.Image], GreyRange | None]


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image in RGB, and sentences the user should read about it."""

    image: Pillow.Image
    notes: tuple[str, ...] = ()


def open_image(stream: BinaryIO, options: MediaOptions, name: str) -> Pillow.Image:
    """The header of an image, its pixels not yet decoded; `stream` must stay open until they are.

    Raises:
        MediaError: not an image in a listed format, a damaged header, or over Pillow's own pixel limit.
    """
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    refuse_by_head(head, name)
    heic = head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS
    if heic:
        heic = not _register_heic()  # from here on: a HEIC image that nobody can read
    check_png(stream, name)
    with warnings.catch_warnings():
        # Our own limits say what is wrong; Pillow's warnings would be noise on a terminal.
        warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module="PIL")
        try:
            return _open_or_repair(stream, head)
        except Pillow.DecompressionBombError:
            # Pillow refuses twice its MAX_IMAGE_PIXELS by itself, even where our limit is set higher.
            most = min(options.policy.max_pixels, 2 * (Pillow.MAX_IMAGE_PIXELS or options.policy.max_pixels))
            raise _too_large(name, most) from None
        except (MediaError, Cancelled):
            raise
        except Exception as error:  # plugins raise many kinds for a damaged header
            if heic:
                raise MediaError(
                    "is a HEIC image and pillow-heif is not installed",
                    where=name,
                    fix='run pip install "vita-engine[heic]"',
                ) from None
            if isinstance(error, UnidentifiedImageError):
                raise MediaError("is not an image in a known format", where=name, fix=USUAL) from None
            raise DamagedImage(name) from error


def _open_or_repair(stream: BinaryIO, head: bytes) -> Pillow.Image:
    """Open; a PNG or JPEG whose text, profiles and the like stop Pillow once more without them."""
    try:
        return open_listed(stream)
    except (MediaError, Cancelled, Pillow.DecompressionBombError):
        raise
    except Exception:
        if head.startswith(PNG_SIGNATURE):
            return open_listed(pixel_chunks_only(stream))
        if not head.startswith(JPEG_START):
            raise
        stream.seek(0)
        return open_listed(io.BytesIO(pixel_segments_only(stream.read())))


def undecoded_file(image: Pillow.Image, name: str) -> BinaryIO | None:
    """A copy of the file of an image that the caller opened and has not decoded; None: decoded, or a later frame.

    So the caller's image stays as it is, and its file is read like any other.

    Raises:
        MediaError: the file was closed before it was decoded.
    """
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or image.tell() != 0 or image.fp is None:
        return None
    try:
        place = image.fp.tell()
        image.fp.seek(0)
        data = image.fp.read()
        image.fp.seek(place)
    except (OSError, ValueError) as error:
        raise MediaError(
            "its file was closed before it was decoded", where=name, fix="call its load() first"
        ) from error
    return io.BytesIO(data)


def decode_file(file: BinaryIO, options: MediaOptions, name: str, guard: ReadGuard) -> LoadedImage:
    """The image of a file in RGB; of an animation the first frame.

    Raises:
        MediaError: as `load_image`. Cancelled: by the guard.
    """
    stream = guard.watch(file, name)
    deep = None if options.reference else check_tiff(stream, name)
    shades = deep.range if deep else None
    image = open_image(deep.stream if deep else stream, options, name)
    notes = () if _check_work(image, stream, options, name) else (f"{name}: {BROKEN_OFF}",)
    try:
        return LoadedImage(decode_image(image, options, name, guard, shades), notes)
    except DamagedImage:
        repaired = _repair(stream)
        if repaired is None:
            raise
    return LoadedImage(decode_image(open_image(repaired, options, name), options, name, guard), notes)


class DamagedImage(MediaError):
    """An image whose pixels cannot be decoded."""

    def __init__(self, name: str) -> None:
        super().__init__("is a damaged or truncated image", where=name, fix="save it again or as PNG")


def decode_image(
    image: Pillow.Image, options: MediaOptions, name: str, guard: ReadGuard, shades: Shades | None = None
) -> Pillow.Image:
    """Check the size, then decode to RGB; of an animation, the frame the image stands at.

    Args:
        image: opened, decoded or not.
        options, name, guard: as above.
        shades: black and white of a deep grey image whose file was rewritten.

    Raises:
        MediaError: over a limit, or damaged. Cancelled: by the guard.
    """
    check_size(image, options, name)
    guard.check(name)
    try:
        return _to_rgb(image, shades, options, name, guard)
    except (MediaError, Cancelled):
        raise
    except MemoryError as error:
        raise MediaError(f"of {image.width}x{image.height} pixels does not fit in memory", where=name) from error
    except Exception as error:  # decoders raise many kinds for damaged files: OSError, SyntaxError, struct.error…
        raise DamagedImage(name) from error


def _repair(stream: BinaryIO) -> BinaryIO | None:
    """The file of an image that could not be decoded, without what may have stopped it; None: nothing to try."""
    stream.seek(0)
    data = stream.read()
    if data.startswith(PNG_SIGNATURE):
        return pixel_chunks_only(io.BytesIO(data))
    closed = closed_jpeg(data) if data.startswith(JPEG_START) else None
    return None if closed is None else io.BytesIO(closed)


def _to_rgb(
    image: Pillow.Image, shades: Shades | None, options: MediaOptions, name: str, guard: ReadGuard
) -> Pillow.Image:
    """Decode; scale deep grey, put transparency on white, and turn upright, unless the reference is asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        keyed = None if options.reference else prepare_key(image)
        image.load()
        if options.reference:
            return image.convert("RGB")
        turn = UPRIGHT.get(_orientation(image))
        if image.mode.startswith(("I", "F")):
            grey = shades(image) if shades else declared_range(image)
            rgb = to_grey(image, grey, guard, name).convert("RGB")
            if isinstance(key := image.info.get("transparency"), int):
                keyed = np.asarray(image) == key
        elif image.has_transparency_data:
            rgb = _on_white(image, name, guard)
        else:
            rgb = image.convert("RGB")
        if keyed is not None:
            rgb.paste("white", mask=Pillow.fromarray(keyed.astype(np.uint8) * 255))
    return rgb if turn is None else rgb.transpose(turn)


def _on_white(image: Pillow.Image, name: str, guard: ReadGuard) -> Pillow.Image:
    """A transparent image on white, in blocks of rows: the steps between take three times the memory of the result."""
    out = Pillow.new("RGB", image.size)
    step = max(1, BLOCK_PIXELS // image.width)
    for top in range(0, image.height, step):
        guard.check(name)
        block = image.crop((0, top, image.width, min(image.height, top + step))).convert("RGBA")
        out.paste(Pillow.alpha_composite(Pillow.new("RGBA", block.size, "white"), block).convert("RGB"), (0, top))
    return out


def _orientation(image: Pillow.Image) -> int:
    """The EXIF orientation, 1 if there is none or it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1  # damaged EXIF does not spoil the pixels
    return value if isinstance(value, int) else 1


def check_size(image: Pillow.Image, options: MediaOptions, name: str) -> None:
    """Hold an image, decoded or not, to the limits of its size.

    Raises:
        MediaError: it has too many pixels, or none.
    """
    _check_sides(image.width, image.height, options, name)


def _check_work(image: Pillow.Image, stream: BinaryIO, options: MediaOptions, name: str) -> bool:
    """Hold an opened image that is not yet decoded to the limits of its size and of the work it takes.

    Returns:
        Whether its file has its end, as far as that can be told before decoding (JPEG).

    Raises:
        MediaError: it is too large, or would take minutes.
    """
    check_size(image, options, name)
    if not isinstance(image, ImageFile.ImageFile):
        return True
    pixels = image.width * image.height
    if pixels > MAX_PYTHON_PIXELS and any(tile[0] in Pillow.DECODERS for tile in image.tile):
        what = f"has more than {MAX_PYTHON_PIXELS / 1e6:g} million pixels in a format that decodes slowly"
        raise MediaError(what, where=name, fix="save it as PNG")
    place = stream.tell()
    complete = True
    if image.format == "ICO":
        for width, height in sizes_in_ico(stream):
            _check_sides(width, height, options, name)
    elif image.format in ("JPEG", "MPO"):
        stream.seek(0)
        found = scan_jpeg(stream.read())
        if found.scans > MAX_SCANS and found.scans * pixels > MAX_SCANS * options.policy.max_pixels:
            raise MediaError(f"is a JPEG of {found.scans} scans", where=name, fix="save it as PNG")
        complete = found.complete
    stream.seek(place)
    return complete


def _check_sides(width: int, height: int, options: MediaOptions, name: str) -> None:
    if width < 1 or height < 1:
        raise MediaError("has no pixels", where=name)
    if width * height > options.policy.max_pixels:
        raise _too_large(f"{name} ({width}x{height})", options.policy.max_pixels)
    if max(width, height) > MAX_SIDE:
        what = f"has a side of more than {MAX_SIDE:,} pixels ({width}x{height})"
        raise MediaError(what, where=name, fix="cut it into parts")


def _too_large(name: str, most: int) -> MediaError:
    return MediaError(f"has more than {most / 1e6:g} million pixels", where=name, fix="make the image smaller")


def _register_heic() -> bool:
    """Teach Pillow HEIC, where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
