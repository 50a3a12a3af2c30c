"""Pictures as the stack of tiles the vision encoder sees.

Owns nothing but the joint between numpy pictures and the engine's own cutting (spec section 3.2). Answering cuts as the
engine does; training cuts the same grid and resizes with PyTorch, three to six times as fast as Pillow and at most two
of 255 levels away from it.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from vita.config import ImagePreprocess, Tiling
from vita.media.image import choose_grid, cut_tiles

SIDE = 224
MAX_TILES = 4  # of a picture, without the thumbnail
TILING = Tiling(tile=SIDE, min_tiles=1, max_tiles=MAX_TILES, thumbnail=True)


def tiles_of(picture: np.ndarray) -> np.ndarray:
    """uint8 `[height, width, 3]` to `[tiles, 224, 224, 3]`, the thumbnail last if there are several."""
    if picture.shape == (SIDE, SIDE, 3):
        return picture[None]
    return np.stack([np.asarray(tile) for tile in cut_tiles(Image.fromarray(picture), TILING)])


def training_tiles(picture: np.ndarray) -> np.ndarray:
    """`tiles_of`, fast and nearly the same."""
    if picture.shape == (SIDE, SIDE, 3):
        return picture[None]
    columns, rows = choose_grid(picture.shape[1], picture.shape[0], TILING)
    whole = _resized(picture, columns * SIDE, rows * SIDE)
    tiles = whole.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    return tiles if len(tiles) == 1 else np.concatenate([tiles, _resized(picture, SIDE, SIDE)[None]])


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    pixels = torch.tensor(picture).permute(2, 0, 1)[None]
    resized = functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def normalise(tiles: Tensor) -> Tensor:
    """uint8 `[n, S, S, 3]` to float32 `[n, 3, S, S]` with the checkpoint's mean and deviation."""
    preprocess = ImagePreprocess()
    mean = torch.tensor(preprocess.mean, device=tiles.device)
    std = torch.tensor(preprocess.std, device=tiles.device)
    return ((tiles.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
