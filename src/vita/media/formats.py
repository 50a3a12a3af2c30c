"""Which files are opened as pictures, and what is said of the others.

Pillow has a plug-in for PostScript, which starts Ghostscript: a stranger's "picture" would be a program that runs here.
Others call handlers, or open a second file of any format inside the first. So every file that goes to Pillow goes
through here, and only the formats on one list are tried.
"""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image as Pillow
from PIL import ImageFile, UnidentifiedImageError

from vita.errors import MediaError

# Pillow's names; each is decoded by Pillow and the libraries inside it alone. The first five are loaded at once, the
# rest only when none of the five fits, so the order keeps a start short.
FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PSD", "QOI", "DDS", "ICO", "TGA",
)  # fmt: skip
QUICK = 5
ALIASES = ("MPO",)  # a JPEG of several pictures, which the JPEG plug-in finds out after opening

HEAD_BYTES = 48
CONVERT = "convert it to PNG"


def open_listed(stream: BinaryIO) -> Pillow.Image:
    """The header of a picture in a listed format.

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
    """Name a file that some programs show as a picture and this one does not.

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
        what = "is a GRIB file of weather data, not a picture"
    elif head.startswith((b"BUFR", b"ZCZC")):
        what = "is a BUFR file of weather data, not a picture"
    elif head.startswith(b"\x89HDF\r\n\x1a\n"):
        what = "is an HDF5 file of data, not a picture"
    if what is not None:
        raise MediaError(what, where=name, fix=CONVERT)


def refuse_opened(picture: Pillow.Image, name: str) -> None:
    """Hold a picture that the caller opened to the same list, unless its pixels are decoded already.

    Raises:
        MediaError: decoding it would run a plug-in that is not on the list.
    """
    if not isinstance(picture, ImageFile.ImageFile) or picture.format in (*FORMATS, *ALIASES):
        return
    if picture.tile or isinstance(picture, ImageFile.StubImageFile):
        raise MediaError(
            f"is a {picture.format} file, which is not decoded here",
            where=name, fix="call its load() first if you trust it, or convert it to PNG",
        )  # fmt: skip
