"""Pictures: reading, tiling, and the tensor the vision encoder takes (spec section 3).

Owns pixels from file to float32. Does not know how many tokens a tile becomes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError
from torch import Tensor

from vita.config import ImagePreprocess, Tiling
from vita.errors import MediaError
from vita.media.load import read_source
from vita.types import MediaOptions, Source

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


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
        _check_size(source, options, "<picture>")
        return _to_rgb(source, options)
    loaded = read_source(source, options, "picture")
    with warnings.catch_warnings(), loaded.open() as stream:
        # Our own pixel limit is checked below, before decoding; Pillow's warning about size would be noise.
        warnings.simplefilter("ignore")
        head = stream.read(32)
        stream.seek(0)
        if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS:
            _register_heic(loaded.name)
        try:
            picture = Pillow.open(stream)
            _check_size(picture, options, loaded.name)
            picture.load()
            return _to_rgb(picture, options)
        except UnidentifiedImageError:
            raise MediaError(
                "is not a picture in a known format", where=loaded.name, fix="use PNG, JPEG, WebP or another"
            ) from None
        except Pillow.DecompressionBombError:
            raise _too_large(loaded.name, options) from None
        except MediaError:
            raise
        except Exception as error:  # decoders raise many kinds for damaged files: OSError, SyntaxError, struct.error…
            raise MediaError("is a damaged or truncated picture", where=loaded.name) from error


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
    return torch.stack([_normalise(_fit(p, preprocess), preprocess) for p in pictures])


def _fit(picture: Pillow.Image, preprocess: ImagePreprocess) -> Pillow.Image:
    """Pad if the checkpoint wants it, then shorter side to `size`, then the centre."""
    if preprocess.pad and picture.width != picture.height:
        side = max(picture.size)
        canvas = Pillow.new("RGB", (side, side), tuple(int(255 * m) for m in preprocess.mean))
        canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = canvas
    short, long = sorted(picture.size)
    if short != preprocess.size:
        other = int(preprocess.size * long / short)
        size = (preprocess.size, other) if picture.width <= picture.height else (other, preprocess.size)
        picture = picture.resize(size, Pillow.Resampling.BICUBIC)
    left, top = (picture.width - preprocess.crop) // 2, (picture.height - preprocess.crop) // 2
    return picture.crop((left, top, left + preprocess.crop, top + preprocess.crop))


def _normalise(picture: Pillow.Image, preprocess: ImagePreprocess) -> Tensor:
    """Float32 `[3, S, S]`; the factor 1/255 acts in float64, mean and deviation in float32."""
    scaled = (np.asarray(picture).astype(np.float64) * (1 / 255)).astype(np.float32)
    mean, std = (np.array(v, dtype=np.float32) for v in (preprocess.mean, preprocess.std))
    return torch.from_numpy(np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1)))


def _to_rgb(picture: Pillow.Image, options: MediaOptions) -> Pillow.Image:
    if options.reference:
        return picture.convert("RGB")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        return _scale_deep(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Pillow.new("RGBA", picture.size, "white")
        return Pillow.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _scale_deep(picture: Pillow.Image) -> Pillow.Image:
    """16-bit and float greyscale to 8 bits; Pillow's own conversion would clip everything over 255 to white."""
    values = np.asarray(picture).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = 65535.0 if picture.mode.startswith("I") and values.max(initial=0.0) > 255 else 255.0
    if picture.mode == "F" and values.max(initial=0.0) <= 1.0:
        top = 1.0
    return Pillow.fromarray((values / top * 255).clip(0, 255).astype(np.uint8)).convert("RGB")


def _from_array(array: np.ndarray) -> Pillow.Image:
    shape = list(array.shape)
    if array.dtype != np.uint8 or array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (3, 4))):
        raise MediaError(
            f"an array of {array.dtype} {shape} is not a picture",
            fix="pass uint8 [height, width], [height, width, 3] or [height, width, 4]",
        )
    return Pillow.fromarray(np.ascontiguousarray(array))


def _check_size(picture: Pillow.Image, options: MediaOptions, name: str) -> None:
    if picture.width < 1 or picture.height < 1:
        raise MediaError("has no pixels", where=name)
    if picture.width * picture.height > options.max_pixels:
        raise _too_large(f"{name} ({picture.width}x{picture.height})", options)
    # Tiling squeezes any shape; a sliver this thin is a mistake, and resizing it would take gigabytes.
    if max(picture.size) > 1000 * min(picture.size):
        raise MediaError(f"is a sliver of {picture.width}x{picture.height} pixels", where=name)


def _too_large(name: str, options: MediaOptions) -> MediaError:
    return MediaError(
        f"has more than {options.max_pixels / 1e6:.0f} million pixels", where=name, fix="make the picture smaller"
    )


def _register_heic(name: str) -> None:
    try:
        import pillow_heif
    except ImportError:
        raise MediaError(
            "is a HEIC picture and pillow-heif is not installed", where=name, fix="run pip install pillow-heif"
        ) from None
    pillow_heif.register_heif_opener()
