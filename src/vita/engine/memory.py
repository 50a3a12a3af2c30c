"""How much memory a model takes, and how much there is.

Owns the prediction, from sizes alone, and the question whether it fits. Does not load or give back anything.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from vita.config import VitaConfig
from vita.decoder.kv_cache import KVCache
from vita.engine.generate import PREFILL_CHUNK
from vita.errors import ResourceError
from vita.layers.quantized import STORED, Quantize
from vita.layers.rounded import WIDE_BLOCK
from vita.weights.load import build_part
from vita.weights.names import PARTS

TILE_BATCH = 4  # tiles that go through the ViT together: enough to fill a CPU, little enough to cancel between
GPU_TILE_BATCH = 13  # a picture cut as finely as can be: done before anybody could cancel
BASE_BYTES = 350 << 20  # the process itself: Python, PyTorch, media libraries
GPU_BYTES = 600 << 20  # what CUDA takes for itself


def predict_memory(
    config: VitaConfig, vocab_size: int, dtype: torch.dtype, context: int, quantize: Quantize | None = None,
    *, device: torch.device, mapped: bool = False, limited: bool = False, rounded_cache: bool = False,
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
        rounded_cache: keys and values are held in eight bits.
    """
    width = dtype.itemsize
    decoder = part_bytes("decoder", config, vocab_size, dtype, quantize)
    cache = context * KVCache.bytes_per_position(config.decoder, dtype, rounded=rounded_cache)
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
        + (min(WIDE_BLOCK, d.intermediate_size * d.hidden_size) * width if rounded else 0)
    )


def _vision_bytes(config: VitaConfig, width: int) -> int:
    """Activations of the tiles that go through the ViT together."""
    v = config.vision
    return TILE_BATCH * (1 + v.grid**2) * (v.intermediate_size + 8 * v.hidden_size) * width


def tile_batch(device: torch.device) -> int:
    """Tiles that go through the ViT together."""
    return TILE_BATCH if device.type == "cpu" else GPU_TILE_BATCH


def available_memory(device: torch.device) -> int:
    """Bytes that can still be had on the device."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own, to be reused
        return int(torch.cuda.mem_get_info(device)[0]) + idle
    import psutil

    free = int(psutil.virtual_memory().available)
    return min(free, _cgroup_room()) if device.type == "cpu" else free


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


def _cgroup_room() -> int:
    """What a container's limit leaves; without one, no limit."""
    limit, usage = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        text = limit.read_text().strip()
        if text == "max":
            return 1 << 62
        # Pages of files count as used and are given up on demand; our own mapped weights are such pages.
        stat = dict(line.split() for line in usage.with_name("memory.stat").read_text().splitlines())
        cached = int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0))
        return max(0, int(text) - int(usage.read_text()) + cached)
    except (OSError, ValueError):
        return 1 << 62
