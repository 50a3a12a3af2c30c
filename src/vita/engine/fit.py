"""Which variant of a model fits a given memory.

Owns the order of preference: the least rounded one that fits. Does not load anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from vita.config import VitaConfig
from vita.engine.memory import available_memory, layer_bytes, predict_memory
from vita.errors import RequestError, ResourceError
from vita.layers.quantized import Quantize

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
PREFERRED: tuple[Quantize | None, ...] = (None, "int8", "int4")


def parse_size(text: str, device: torch.device) -> int:
    """Bytes of "4GB", "3.5 GiB", "800m" or "auto" (what is available on the device).

    Raises:
        RequestError: no size.
    """
    if text.strip().lower() == "auto":
        return available_memory(device)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if not found or found[2] not in UNITS or float(found[1]) <= 0:
        raise RequestError(f"{text!r} is no size", where="--fit", fix="use auto, or a size such as 4GB")
    return int(float(found[1]) * UNITS[found[2]])


@dataclass(frozen=True)
class Fit:
    """What is taken so that a model fits.

    Attributes:
        scheme: how the decoder's linear layers are held.
        need: bytes predicted.
        spilled: blocks of the decoder that are read again from their file for every token.
    """

    scheme: Quantize | None
    need: int
    spilled: int = 0


def choose_fit(
    config: VitaConfig, vocab_size: int, dtype: torch.dtype, limit: int, context: int, stored: Quantize | None,
    *, device: torch.device, mapped: bool, rounded_cache: bool = False,
) -> Fit:  # fmt: skip
    """The least rounded variant that fits; if none does and the weights are mapped, the smallest one with some of its
    blocks given back after every use.

    Args:
        config, vocab_size, dtype, context, device, mapped, rounded_cache: as in `predict_memory`.
        limit: bytes there may be.
        stored: the checkpoint's own scheme, which leaves no choice.

    Raises:
        ResourceError: not even the smallest fits.
    """
    schemes = PREFERRED if stored is None else (stored,)
    need = 0
    for scheme in schemes:
        parts = predict_memory(
            config, vocab_size, dtype, context, scheme, device=device, mapped=mapped, limited=True,
            rounded_cache=rounded_cache,
        )  # fmt: skip
        need = sum(parts.values())
        if need <= limit:
            return Fit(scheme, need)
    if stored is not None and mapped:  # what is rounded while loading lies in no file
        block = layer_bytes(config, stored, dtype)
        spilled = -(-(need - limit) // block) + 1  # one of them is there while it is used
        need -= (spilled - 1) * block
        if spilled <= config.decoder.num_layers:
            return Fit(stored, need, spilled)
    raise ResourceError(
        f"the smallest variant ({schemes[-1] or 'as stored'}) needs about {need / 1e9:.1f} GB and "
        f"{limit / 1e9:.1f} GB are allowed", where="--fit", fix="allow more, or take a smaller model",
    )  # fmt: skip
