"""Pictures as the stack of tiles the vision encoder sees.

Owns nothing but the joint between numpy pictures and the engine's own cutting (spec section 3.2), so that training
and answering cut alike.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vita.config import ImagePreprocess, Tiling
from vita.media.image import cut_tiles

SIDE = 224
MAX_TILES = 4  # of a picture, without the thumbnail
TILING = Tiling(tile=SIDE, min_tiles=1, max_tiles=MAX_TILES, thumbnail=True)


def tiles_of(picture: np.ndarray) -> np.ndarray:
    """uint8 `[height, width, 3]` to `[tiles, 224, 224, 3]`, the thumbnail last if there are several."""
    if picture.shape == (SIDE, SIDE, 3):
        return picture[None]
    return np.stack([np.asarray(tile) for tile in cut_tiles(Image.fromarray(picture), TILING)])


def normalise(tiles: Tensor) -> Tensor:
    """uint8 `[n, S, S, 3]` to float32 `[n, 3, S, S]` with the checkpoint's mean and deviation."""
    preprocess = ImagePreprocess()
    mean = torch.tensor(preprocess.mean, device=tiles.device)
    std = torch.tensor(preprocess.std, device=tiles.device)
    return ((tiles.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
