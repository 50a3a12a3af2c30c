"""The image formats that are opened, and sentences for files that are not images.

Pillow's plug-in for PostScript starts Ghostscript: a file would be a program that runs here. Other plug-ins call
handlers, or open a second file of any format inside the first. So only the formats on this list are tried.
"""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image as Pillow
from PIL import ImageFile, UnidentifiedImageError

from vita.errors import MediaError

# Pillow's names; each is decoded by Pillow and its own libraries alone. Pillow imports the first five at once and the
# rest only when none of the five fits, which keeps the first image fast.
FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PSD", "QOI", "DDS", "ICO", "TGA",
)  # fmt: skip
QUICK = 5
ALIASES = ("MPO",)  # a JPEG of several images, which the JPEG plug-in detects after opening

HEAD_BYTES = 48
CONVERT = "convert it to PNG"
ICO_ENTRIES = 256


def open_listed(stream: BinaryIO) -> Pillow.Image:
    """The header of an image in a listed format.

    Raises:
        UnidentifiedImageError: in none of them.
        Exception: whatever a plug-in raises for a damaged header.
    """
    try:
        return Pillow.open(stream, formats=FORMATS[:QUICK])
    except UnidentifiedImageError:
        Pillow.init()
        # Older versions of Pillow lack AVIF, and HEIF comes with pillow-heif.
        return Pillow.open(stream, formats=[name for name in FORMATS[QUICK:] if name in Pillow.OPEN])


def refuse_by_head(head: bytes, name: str) -> None:
    """Name a file that some programs show as an image and this one does not.

    Args:
        head: its first `HEAD_BYTES` bytes.
        name: for the sentence.

    Raises:
        MediaError: it is one of them.
    """
    what = None
    if head.lstrip(b"\x04\r\n\t ").startswith(b"%!") or head.startswith(b"\xc5\xd0\xd3\xc6"):
        what = "is a PostScript file, which is not read because it is a program"
    elif (
        head.startswith((b"\xd7\xcd\xc6\x9a", b"\1\0\t\0\0\1", b"\1\0\t\0\0\3", b"\2\0\t\0\0\1", b"\2\0\t\0\0\3"))
        or head[40:44] == b" EMF"
    ):
        what = "is a Windows metafile, which is not read because it holds drawing instructions"
    elif head.startswith(b"GRIB"):
        what = "is a GRIB file of weather data, not an image"
    elif head.startswith((b"BUFR", b"ZCZC")):
        what = "is a BUFR file of weather data, not an image"
    elif head.startswith(b"\x89HDF\r\n\x1a\n"):
        what = "is an HDF5 file of data, not an image"
    if what is not None:
        raise MediaError(what, where=name, fix=CONVERT)


def refuse_opened(image: Pillow.Image, name: str) -> None:
    """Hold an image that the caller opened to the same list, unless its pixels are decoded already.

    Raises:
        MediaError: decoding it would run a plug-in that is not on the list.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.format in (*FORMATS, *ALIASES):
        return
    if image.tile or isinstance(image, ImageFile.StubImageFile):
        raise MediaError(
            f"is a {image.format} file, which is not decoded here",
            where=name, fix="call its load() first if you trust it, or convert it to PNG",
        )  # fmt: skip


def sizes_in_ico(stream: BinaryIO) -> list[tuple[int, int]]:
    """Width and height of the images inside an ICO by their own headers; the directory can only tell up to 256."""
    stream.seek(0)
    head = stream.read(6 + 16 * ICO_ENTRIES)
    sizes = []
    for entry in range(6, min(len(head), 6 + 16 * int.from_bytes(head[4:6], "little")) - 15, 16):
        stream.seek(int.from_bytes(head[entry + 12 : entry + 16], "little"))
        inner = stream.read(24)
        if inner.startswith(b"\x89PNG"):
            sizes.append((int.from_bytes(inner[16:20], "big"), int.from_bytes(inner[20:24], "big")))
        else:  # a BMP header; its height counts the mask too
            width, height = (int.from_bytes(inner[k : k + 4], "little", signed=True) for k in (4, 8))
            sizes.append((abs(width), abs(height) // 2))
    stream.seek(0)
    return sizes
