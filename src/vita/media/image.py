"""Pictures: reading, tiling, and the tensor the vision encoder takes (spec section 3).

Owns pixels from file to float32. Does not know how many tokens a tile becomes.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError
from torch import Tensor

from vita.config import ImagePreprocess, Tiling
from vita.errors import MediaError, RequestError
from vita.media.formats import HEAD_BYTES, open_listed, refuse_by_head, refuse_opened
from vita.media.source import read_source
from vita.types import MediaOptions, Source

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
MOST_TILES = 12  # that a request may ask for: the most of the released model
MAX_ASPECT = 64  # of a frame; what is beyond lies outside the centre crop anyway
MAX_SIDE = 1_000_000  # Pillow's tables for resizing take 32 bytes for every pixel of a side
MAX_CANVAS_SIDE = 16_384  # of a padded picture: 805 MB
USUAL = "use PNG, JPEG, WebP or GIF"

Values: TypeAlias = np.ndarray[Any, Any]  # uint8 [height, width, 3]


def load_image(source: Source, options: MediaOptions | None = None) -> Pillow.Image:
    """A picture in RGB.

    Args:
        source: anything `vita.types.Source` allows; an array is uint8 `[h, w]`, `[h, w, 3]` or `[h, w, 4]`.
        options: limits, and whether to read as the reference does (no rotation, alpha dropped).

    Raises:
        MediaError: not a picture, damaged, or over the pixel limit (checked before decoding).
    """
    options = options or MediaOptions()
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Pillow.Image):
        refuse_opened(source, "<picture>")
        return _decode(source, options, "<picture>")
    loaded = read_source(source, options, "picture")
    with loaded.open() as stream:
        return _decode(open_picture(stream, options, loaded.name), options, loaded.name)


def open_picture(stream: BinaryIO, options: MediaOptions, name: str) -> Pillow.Image:
    """The header of a picture, its pixels not yet decoded; `stream` must stay open until they are.

    Raises:
        MediaError: not a picture in a listed format, a damaged header, or over Pillow's own pixel limit.
    """
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    refuse_by_head(head, name)
    heic = head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS
    if heic:
        heic = not _register_heic()  # from here on: a HEIC picture that nobody can read
    with warnings.catch_warnings():
        # Our own limits speak for themselves; Pillow's remarks would be noise on a terminal.
        warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module="PIL")
        try:
            return open_listed(stream)
        except Pillow.DecompressionBombError:
            # Pillow refuses twice its MAX_IMAGE_PIXELS by itself, even where our limit is set higher.
            most = min(options.policy.max_pixels, 2 * (Pillow.MAX_IMAGE_PIXELS or options.policy.max_pixels))
            raise _too_large(name, most) from None
        except Exception as error:  # plugins raise many kinds for a damaged header
            if heic:
                raise MediaError(
                    "is a HEIC picture and pillow-heif is not installed", where=name, fix="run pip install pillow-heif"
                ) from None
            if isinstance(error, UnidentifiedImageError):
                raise MediaError("is not a picture in a known format", where=name, fix=USUAL) from None
            raise MediaError("is a damaged or truncated picture", where=name) from error


def _decode(picture: Pillow.Image, options: MediaOptions, name: str) -> Pillow.Image:
    """Check the size, then decode to RGB; of an animation, the frame the picture stands at."""
    check_size(picture, options, name)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            picture.load()
            return _to_rgb(picture, options)
    except MemoryError as error:
        raise MediaError(f"of {picture.width}x{picture.height} pixels does not fit in memory", where=name) from error
    except Exception as error:  # decoders raise many kinds for damaged files: OSError, SyntaxError, struct.error…
        raise MediaError("is a damaged or truncated picture", where=name, fix="save it again or as PNG") from error


def choose_grid(width: int, height: int, tiling: Tiling) -> tuple[int, int]:
    """Columns and rows a picture is cut into (spec section 3.2).

    The grid whose shape is nearest to the picture's; of two equally near ones the larger, if the picture has more
    than half the pixels that the larger grid shows.
    """
    grids = sorted(
        (
            (cols, rows)
            for cols in range(1, tiling.max_tiles + 1)
            for rows in range(1, tiling.max_tiles + 1)
            if tiling.min_tiles <= cols * rows <= tiling.max_tiles
        ),
        key=lambda grid: grid[0] * grid[1],
    )
    aspect = width / height
    best, nearest = (1, 1), float("inf")
    for cols, rows in grids:
        distance = abs(aspect - cols / rows)
        enough = width * height > 0.5 * tiling.tile * tiling.tile * cols * rows
        if distance < nearest or (distance == nearest and enough):
            best, nearest = (cols, rows), distance
    return best


def limited(tiling: Tiling, most: int | None) -> Tiling:
    """The checkpoint's tiling with the most tiles a request asked for, or as it is for None.

    Raises:
        RequestError: `most` is not 1 to 12.
    """
    if most is None:
        return tiling
    if not 1 <= most <= MOST_TILES:
        raise RequestError(f"must be 1 to {MOST_TILES}, not {most}", where="max_tiles")
    # A checkpoint's least number would leave no grid to choose where it is larger.
    return replace(tiling, max_tiles=most, min_tiles=min(tiling.min_tiles, most))


def cut_tiles(picture: Pillow.Image, tiling: Tiling) -> list[Pillow.Image]:
    """Square tiles row by row, then the thumbnail if there is more than one tile; the aspect ratio is ignored."""
    side = tiling.tile
    cols, rows = choose_grid(picture.width, picture.height, tiling)
    whole = picture.resize((cols * side, rows * side), Pillow.Resampling.BICUBIC)
    tiles = [
        whole.crop((col * side, row * side, (col + 1) * side, (row + 1) * side))
        for row in range(rows)
        for col in range(cols)
    ]
    if tiling.thumbnail and len(tiles) > 1:
        tiles.append(picture.resize((side, side), Pillow.Resampling.BICUBIC))
    return tiles


def to_pixels(pictures: Sequence[Pillow.Image], preprocess: ImagePreprocess) -> Tensor:
    """Resize, crop and normalise: float32 `[n, 3, S, S]` (spec section 3.3)."""
    return normalised(fitted(pictures, preprocess), preprocess)


def fitted(pictures: Sequence[Pillow.Image], preprocess: ImagePreprocess) -> list[Values]:
    """Resized and cropped: uint8 `[S, S, 3]` each."""
    return [np.asarray(_fit(picture, preprocess)) for picture in pictures]


def normalised(pictures: Sequence[Values], preprocess: ImagePreprocess) -> Tensor:
    """As an encoder wants them: float32 `[n, 3, S, S]`."""
    shades = _shades(preprocess)
    out = np.empty((len(pictures), 3, preprocess.crop, preprocess.crop), np.float32)
    for values, planes in zip(pictures, out, strict=True):
        for channel in range(3):
            np.take(shades[channel], values[..., channel], out=planes[channel], mode="clip")  # unlike "raise": in place
    return torch.from_numpy(out)


def _shades(preprocess: ImagePreprocess) -> np.ndarray[Any, Any]:
    """What each of 256 values becomes: float32 `[3, 256]`. 1/255 acts in float64, mean and deviation in float32."""
    scaled = (np.arange(256) * (1 / 255)).astype(np.float32)
    mean, std = (np.array(v, dtype=np.float32)[:, None] for v in (preprocess.mean, preprocess.std))
    return (scaled - mean) / std


def _fit(picture: Pillow.Image, preprocess: ImagePreprocess) -> Pillow.Image:
    """Pad if the checkpoint wants it, then shorter side to `size`, then the centre."""
    if preprocess.pad and picture.width != picture.height:
        if max(picture.size) > MAX_CANVAS_SIDE:  # its square would take gigabytes for no visible gain
            picture = picture.copy()
            picture.thumbnail((MAX_CANVAS_SIDE, MAX_CANVAS_SIDE), Pillow.Resampling.BICUBIC)
        side = max(picture.size)
        canvas = Pillow.new("RGB", (side, side), tuple(int(255 * m) for m in preprocess.mean))
        canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = canvas
    elif max(picture.size) > MAX_ASPECT * min(picture.size):
        picture = _trim(picture)
    short, long = sorted(picture.size)
    if short != preprocess.size:
        other = int(preprocess.size * long / short)
        size = (preprocess.size, other) if picture.width <= picture.height else (other, preprocess.size)
        picture = picture.resize(size, Pillow.Resampling.BICUBIC)
    left, top = (picture.width - preprocess.crop) // 2, (picture.height - preprocess.crop) // 2
    return picture.crop((left, top, left + preprocess.crop, top + preprocess.crop))


def _trim(picture: Pillow.Image) -> Pillow.Image:
    """The middle of a sliver: enlarging all of it would take gigabytes, and the crop keeps only the middle."""
    most = MAX_ASPECT * min(picture.size)
    width, height = min(picture.width, most), min(picture.height, most)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _to_rgb(picture: Pillow.Image, options: MediaOptions) -> Pillow.Image:
    if options.reference:
        return picture.convert("RGB")
    picture = _upright(picture)
    if picture.mode.startswith(("I", "F")):
        return _scale_deep(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Pillow.new("RGBA", picture.size, "white")
        return Pillow.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _upright(picture: Pillow.Image) -> Pillow.Image:
    """Turned as its EXIF says."""
    try:
        return ImageOps.exif_transpose(picture)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        # Damaged EXIF beside sound pixels: what the tag says cannot be known, the picture can be shown.
        return picture


def _scale_deep(picture: Pillow.Image) -> Pillow.Image:
    """16-bit, 32-bit and float greyscale to 8 bits; Pillow's own conversion clips everything over 255 to white."""
    values = np.nan_to_num(np.asarray(picture).astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    highest = float(values.max(initial=0.0))
    if picture.mode.startswith("I;16"):
        top = 65535.0
    else:  # the file does not say what is white: the least usual range that holds all values
        usual = (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0)
        top = next((t for t in usual if highest <= t), highest)
    return Pillow.fromarray((values / top * 255).clip(0, 255).astype(np.uint8)).convert("RGB")


def _from_array(array: np.ndarray[Any, Any]) -> Pillow.Image:
    shape = list(array.shape)
    if array.dtype != np.uint8 or array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (3, 4))):
        raise MediaError(
            f"an array of {array.dtype} {shape} is not a picture",
            fix="pass uint8 [height, width], [height, width, 3] or [height, width, 4]",
        )
    return Pillow.fromarray(np.ascontiguousarray(array))


def check_size(picture: Pillow.Image, options: MediaOptions, name: str) -> None:
    """Hold a picture, decoded or not, to the limits.

    Raises:
        MediaError: it has too many pixels, or too few to be one.
    """
    if picture.width < 1 or picture.height < 1:
        raise MediaError("has no pixels", where=name)
    if picture.width * picture.height > options.policy.max_pixels:
        raise _too_large(f"{name} ({picture.width}x{picture.height})", options.policy.max_pixels)
    if max(picture.size) > MAX_SIDE:
        raise MediaError(f"is a sliver of {picture.width}x{picture.height} pixels", where=name)


def _too_large(name: str, most: int) -> MediaError:
    return MediaError(f"has more than {most / 1e6:g} million pixels", where=name, fix="make the picture smaller")


def _register_heic() -> bool:
    """Teach Pillow HEIC, where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
