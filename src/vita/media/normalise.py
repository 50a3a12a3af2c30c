"""Make the vision encoder's tensor of resized images (spec section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from vita.config import ImagePreprocess
from vita.media.image import Values, resize_and_crop


def to_pixels(images: Sequence[Pillow.Image], preprocess: ImagePreprocess) -> Tensor:
    """Resize, crop and normalise: float32 `[n, 3, S, S]` (spec section 3.3)."""
    return normalise(resize_and_crop(images, preprocess), preprocess, torch.device("cpu"))


def normalise(images: Sequence[Values], preprocess: ImagePreprocess, device: torch.device) -> Tensor:
    """Scale, subtract the mean, divide by the deviation: float32 `[n, 3, S, S]` on the device."""
    if device.type != "cpu":
        return normalise_pixels(torch.from_numpy(np.stack(images)).to(device), preprocess)
    shades = _normalisation_table(preprocess)
    out = np.empty((len(images), 3, preprocess.crop, preprocess.crop), np.float32)
    for values, planes in zip(images, out, strict=True):
        for channel in range(3):
            np.take(shades[channel], values[..., channel], out=planes[channel], mode="clip")  # unlike "raise": in place
    return torch.from_numpy(out)


def normalise_pixels(pixels: Tensor, preprocess: ImagePreprocess) -> Tensor:
    """As `normalise`, of uint8 pixels `[n, S, S, 3]` on any device, with the same result. On CUDA the host waits for
    nothing."""
    device, shades = pixels.device, torch.from_numpy(_normalisation_table(preprocess))  # [3, 256]
    if device.type == "cuda":
        shades = shades.pin_memory()
    values = pixels.permute(0, 3, 1, 2).contiguous().int()  # [n, 3, S, S]
    first = torch.arange(0, shades.numel(), shades.shape[1], dtype=torch.int32, device=device)
    return shades.to(device, non_blocking=True).flatten()[values + first[:, None, None]]


def _normalisation_table(preprocess: ImagePreprocess) -> np.ndarray[Any, Any]:
    """Lookup table of normalised values, float32 `[3, 256]`. 1/255 acts in float64, mean and deviation in float32."""
    scaled = (np.arange(256) * (1 / 255)).astype(np.float32)
    mean, std = (np.array(v, dtype=np.float32)[:, None] for v in (preprocess.mean, preprocess.std))
    return (scaled - mean) / std
