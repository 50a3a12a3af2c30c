"""Read images, cut them into tiles, resize (spec section 3). Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from PIL import Image as Pillow

from vita.config import ImagePreprocess, Tiling
from vita.errors import MediaError, RequestError
from vita.media.formats import refuse_opened
from vita.media.image_file import LoadedImage, decode_file, decode_image, undecoded_file
from vita.media.policy import UNGUARDED, ReadGuard
from vita.media.source import read_source, resolve_source
from vita.sources import Array, Source
from vita.types import MediaOptions

MAX_TILES = 12  # a request may ask for this many at most: the limit of the released model
MAX_ASPECT = 64  # pixels further out lie outside the centre crop
MAX_CANVAS_SIDE = 16_384  # of a padded image: 805 MB

Values: TypeAlias = np.ndarray[Any, Any]  # uint8 [height, width, 3]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Map(Protocol):
    """The signature of `map` and of an executor's: results in order, perhaps computed in several threads."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]: ...


def load_image(source: Source, options: MediaOptions | None = None, guard: ReadGuard = UNGUARDED) -> Pillow.Image:
    """An image in RGB. Arguments and errors as in `load_image_with_notes`."""
    return load_image_with_notes(source, options, guard).image


def load_image_with_notes(
    source: Source, options: MediaOptions | None = None, guard: ReadGuard = UNGUARDED
) -> LoadedImage:
    """An image in RGB, and what is wrong with its file if it could be shown even so.

    Args:
        source: anything `vita.types.Source` allows; an array is uint8 `[h, w]`, `[h, w, 3]` or `[h, w, 4]`.
        options: limits, and whether to read as the reference does (no rotation, alpha dropped).
        guard: deadline and cancel.

    Raises:
        MediaError: not an image, damaged, or over a limit (checked before decoding), or too slow.
        RequestError: a value that is not a source.
        Cancelled: by the guard.
    """
    options = options or MediaOptions()
    resolved = resolve_source(source, "image")
    if isinstance(resolved, Array):
        name = resolved.name or "<image>"
        values = resolved.values
        image = _from_array(values) if isinstance(values, np.ndarray) else values
        refuse_opened(image, name)
        file = undecoded_file(image, name)
        if file is None:
            return LoadedImage(decode_image(image, options, name, guard))
        return decode_file(file, options, name, guard)
    loaded = read_source(source, options, "image", guard)
    with loaded.open() as file:
        return decode_file(file, options, loaded.name, guard)


def choose_grid(width: int, height: int, tiling: Tiling) -> tuple[int, int]:
    """Columns and rows of tiles for an image (spec section 3.2).

    The grid whose aspect ratio is nearest to the image's. Of two equally near ones the larger, if the image has more
    than half the pixels of the larger grid.
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


def limit_tiles(tiling: Tiling, most: int | None) -> Tiling:
    """The checkpoint's tiling with the request's `max_tiles`; unchanged for None.

    Raises:
        RequestError: `most` is not 1 to 12.
    """
    if most is None:
        return tiling
    if not 1 <= most <= MAX_TILES:
        raise RequestError(f"must be 1 to {MAX_TILES}, not {most}", where="max_tiles")
    # A larger `min_tiles` of the checkpoint would leave no grid to choose.
    return replace(tiling, max_tiles=most, min_tiles=min(tiling.min_tiles, most))


def cut_tiles(image: Pillow.Image, tiling: Tiling, run: Map = map) -> list[Pillow.Image]:
    """Square tiles row by row, then the thumbnail if there is more than one tile; the aspect ratio is ignored.

    Args:
        image: in RGB.
        tiling: of the checkpoint or the request.
        run: resizes to the tiles and to the thumbnail; Pillow releases the GIL.
    """
    side = tiling.tile
    cols, rows = choose_grid(image.width, image.height, tiling)
    sizes = [(cols * side, rows * side)]
    if tiling.thumbnail and cols * rows > 1:
        sizes.append((side, side))
    image.load()  # before several threads read it
    resized, *thumbnail = run(partial(image.resize, resample=Pillow.Resampling.BICUBIC), sizes)
    tiles = [
        resized.crop((col * side, row * side, (col + 1) * side, (row + 1) * side))
        for row in range(rows)
        for col in range(cols)
    ]
    return tiles + thumbnail


def resize_and_crop(images: Sequence[Pillow.Image], preprocess: ImagePreprocess, run: Map = map) -> list[Values]:
    """Resize and crop: uint8 `[S, S, 3]` each; `run` as in `cut_tiles`."""

    def resized(image: Pillow.Image) -> Values:
        return np.asarray(_resize_one(image, preprocess))

    return list(run(resized, images))


def _resize_one(image: Pillow.Image, preprocess: ImagePreprocess) -> Pillow.Image:
    """Pad to a square if the checkpoint asks for it, resize the shorter side to `size`, crop the centre."""
    if preprocess.pad and image.width != image.height:
        if max(image.size) > MAX_CANVAS_SIDE:  # a larger square would take gigabytes
            image = image.copy()
            image.thumbnail((MAX_CANVAS_SIDE, MAX_CANVAS_SIDE), Pillow.Resampling.BICUBIC)
        side = max(image.size)
        canvas = Pillow.new("RGB", (side, side), tuple(int(255 * m) for m in preprocess.mean))
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = canvas
    elif max(image.size) > MAX_ASPECT * min(image.size):
        image = _trim(image)
    short, long = sorted(image.size)
    if short != preprocess.size:
        other = int(preprocess.size * long / short)
        size = (preprocess.size, other) if image.width <= image.height else (other, preprocess.size)
        image = image.resize(size, Pillow.Resampling.BICUBIC)
    left, top = (image.width - preprocess.crop) // 2, (image.height - preprocess.crop) // 2
    return image.crop((left, top, left + preprocess.crop, top + preprocess.crop))


def _trim(image: Pillow.Image) -> Pillow.Image:
    """The middle of a very long image: resizing all of it would take gigabytes, and the crop keeps only the middle."""
    most = MAX_ASPECT * min(image.size)
    width, height = min(image.width, most), min(image.height, most)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _from_array(array: np.ndarray[Any, Any]) -> Pillow.Image:
    shape = list(array.shape)
    if array.dtype != np.uint8 or array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (3, 4))):
        raise MediaError(
            f"an array of {array.dtype} {shape} is not an image",
            fix="pass uint8 [height, width], [height, width, 3] or [height, width, 4]",
        )
    return Pillow.fromarray(np.ascontiguousarray(array))
