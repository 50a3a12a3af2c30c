"""How much memory a model takes, and how much there is.

Owns the prediction, from sizes alone, and the question whether it fits. Does not load or give back anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn

from vita.checkpoint.load import build_part
from vita.checkpoint.names import PARTS
from vita.config import VitaConfig
from vita.errors import RequestError, ResourceError
from vita.model.kv_cache import KVCache
from vita.options import Quantize
from vita.quant.linear import DEQUANTIZE_BLOCK
from vita.quant.scheme import STORED
from vita.runtime.memory import available_memory

PREFILL_CHUNK = 2048  # positions computed together: bounds the memory of activations, amortises reading the weights

TILE_BATCH = 4  # tiles that go through the ViT together: enough to fill a CPU, little enough to cancel between
GPU_TILE_BATCH = 13  # a picture cut as finely as can be: done before anybody could cancel
BASE_BYTES = 350 << 20  # the process itself: Python, PyTorch, media libraries
GPU_BYTES = 600 << 20  # what CUDA takes for itself


def predict_memory(
    config: VitaConfig, vocab_size: int, dtype: torch.dtype, context: int, quantize: Quantize | None = None,
    *, device: torch.device, mapped: bool = False, limited: bool = False, quantized_kv_cache: bool = False,
) -> dict[str, int]:  # fmt: skip
    """Bytes at the peak of a conversation with pictures, by what they are for; the sum is the peak.

    Args:
        config, vocab_size: of the model.
        dtype: it works in.
        context: positions of the longest conversation.
        quantize: how linear layers are held.
        device: it runs on.
        mapped: the weights are views of the checkpoint's files, whose pages are read where they are wanted: of the
            embedding only rows, and the encoders' are given back after use. Otherwise everything stays.
        limited: of mapped weights, the decoder's are given back too while an encoder works.
        quantized_kv_cache: keys and values are held in eight bits.
    """
    width = dtype.itemsize
    decoder = part_bytes("decoder", config, vocab_size, dtype, quantize)
    cache = context * KVCache.bytes_per_position(config.decoder, dtype, quantized=quantized_kv_cache)
    work = _prefill_bytes(config, vocab_size, context, width, rounded=quantize is not None)
    present = ("vision", "projector") if device.type == "cpu" else tuple(part for part in PARTS if part != "decoder")
    encoders = sum(part_bytes(part, config, vocab_size, dtype, quantize) for part in present)
    if device.type != "cpu":
        process = GPU_BYTES
    else:
        encoders += _vision_bytes(config, width) if mapped else 0
        # Pages that are given back leave room: encoding and answering take turns.
        encoders = max(0, encoders - cache - work - (decoder if limited else 0)) if mapped else encoders
        process = BASE_BYTES
    tied = config.decoder.tie_word_embeddings and quantize is None
    # A GPU has no part of it: rows are read from the host's memory, wherever that can be locked.
    table = 0 if mapped or tied or device.type != "cpu" else vocab_size * config.decoder.hidden_size * width
    return {
        "decoder": decoder, "embedding": table, "encoders": encoders, "kv cache": cache, "workspace": work,
        "process": process,
    }  # fmt: skip


def layer_bytes(config: VitaConfig, quantize: Quantize | None, dtype: torch.dtype) -> int:
    """Weights of one block of the decoder."""
    return _held(build_part("decoder", config, 1, quantize).get_submodule("layers.0"), dtype)


def part_bytes(
    part: str, config: VitaConfig, vocab_size: int, dtype: torch.dtype, quantize: Quantize | None = None
) -> int:
    """Weights of a part; of the decoder all that every token reads, the blocks and the head."""
    return _held(build_part(part, config, vocab_size, quantize), dtype)


def _held(module: nn.Module, dtype: torch.dtype) -> int:
    named = module.state_dict().items()
    return sum(
        t.nbytes if t.dtype in STORED else t.numel() * dtype.itemsize for name, t in named if name != "embed.weight"
    )


def _prefill_bytes(config: VitaConfig, vocab_size: int, context: int, width: int, *, rounded: bool) -> int:
    """Activations of the largest piece of a prompt: up to three of the MLP's width live together (two where our own
    kernel makes the gate), and some of the block's; the next token's logits in two formats; a block of widened weights.
    """
    d = config.decoder
    rows = min(context, PREFILL_CHUNK)
    return (
        rows * (3 * d.intermediate_size + 8 * d.hidden_size) * width
        + vocab_size * (width + 4)
        + (min(DEQUANTIZE_BLOCK, d.intermediate_size * d.hidden_size) * width if rounded else 0)
    )


def _vision_bytes(config: VitaConfig, width: int) -> int:
    """Activations of the tiles that go through the ViT together."""
    v = config.vision
    return TILE_BATCH * (1 + v.grid**2) * (v.intermediate_size + 8 * v.hidden_size) * width


def tile_batch(device: torch.device) -> int:
    """Tiles that go through the ViT together."""
    return TILE_BATCH if device.type == "cpu" else GPU_TILE_BATCH


def check_memory(need: int, device: torch.device) -> None:
    """Say before loading that a model will not fit.

    Raises:
        ResourceError: with both figures.
    """
    have = available_memory(device)
    if need > have:
        raise ResourceError(
            f"the model needs about {need / 1e9:.1f} GB of memory and {have / 1e9:.1f} GB are available",
            where=str(device), fix="close other programs, use a smaller --dtype, or another machine",
        )  # fmt: skip


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
class MemoryPlan:
    """What is taken so that a model fits.

    Attributes:
        scheme: how the decoder's linear layers are held.
        need: bytes predicted.
        spilled: blocks of the decoder that are read again from their file for every token.
    """

    scheme: Quantize | None
    need: int
    streamed_layers: int = 0


def plan_memory(
    config: VitaConfig, vocab_size: int, dtype: torch.dtype, limit: int, context: int, stored: Quantize | None,
    *, device: torch.device, mapped: bool, quantized_kv_cache: bool = False,
) -> MemoryPlan:  # fmt: skip
    """The least rounded variant that fits; if none does and the weights are mapped, the smallest one with some of its
    blocks given back after every use.

    Args:
        config, vocab_size, dtype, context, device, mapped, quantized_kv_cache: as in `predict_memory`.
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
            quantized_kv_cache=quantized_kv_cache,
        )  # fmt: skip
        need = sum(parts.values())
        if need <= limit:
            return MemoryPlan(scheme, need)
    if stored is not None and mapped:  # what is rounded while loading lies in no file
        block = layer_bytes(config, stored, dtype)
        streamed_layers = -(-(need - limit) // block) + 1  # one of them is there while it is used
        need -= (streamed_layers - 1) * block
        if streamed_layers <= config.decoder.num_layers:
            return MemoryPlan(stored, need, streamed_layers)
    raise ResourceError(
        f"the smallest variant ({schemes[-1] or 'as stored'}) needs about {need / 1e9:.1f} GB and "
        f"{limit / 1e9:.1f} GB are allowed", where="--fit", fix="allow more, or take a smaller model",
    )  # fmt: skip
