"""Which device and number format to run in, and whether the model fits.

Owns the choices that depend on the machine. Mode is said, not guessed: `auto` follows the checkpoint's own config
and what the hardware can do, and the reason is kept for `vita info` and the logs.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vita.config import VitaConfig
from vita.decoder.kv_cache import KVCache
from vita.errors import RequestError, ResourceError
from vita.layers.quantized import SCHEMES, STORED, Quantize
from vita.weights.load import build_part, parameter_counts

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "float16": torch.float16, "fp16": torch.float16,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
}  # fmt: skip
SMALL_MODEL = 200_000_000  # parameters up to which float32 costs nobody anything on a CPU
WORKSPACE = 0.06  # activations and the allocator's slack, as a fraction of the weights
BASE_BYTES = 350 << 20  # the process itself: Python, PyTorch, media libraries


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps` to a device that is there.

    Raises:
        RequestError: not a device name. ResourceError: the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"unknown device {name!r}", where="--device", fix="use auto, cpu, cuda or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ResourceError("this machine has no usable CUDA device", where=name, fix="use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(f"there are only {torch.cuda.device_count()} CUDA devices", where=name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ResourceError("this machine has no usable MPS device", where=name, fix="use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise RequestError(f"unknown device {name!r}", where="--device", fix="use auto, cpu, cuda or mps")
    return device


def choose_dtype(name: str, config: VitaConfig, parameters: int, device: torch.device) -> tuple[torch.dtype, str]:
    """The working dtype and the reason for it.

    Raises:
        RequestError: not a dtype name.
    """
    if name != "auto":
        if name not in DTYPES:
            raise RequestError(f"unknown dtype {name!r}", where="--dtype", fix="use auto, float32, float16 or bfloat16")
        return DTYPES[name], "as asked"
    stored = DTYPES[config.dtype]
    if device.type != "cpu":
        return stored, "the checkpoint's own"
    if parameters <= SMALL_MODEL:
        return torch.float32, "a small model on a CPU is fastest and exact in float32"
    if stored == torch.float16:
        return torch.bfloat16, "CPUs that multiply halves multiply bfloat16"
    return stored, "the checkpoint's own"


def choose_quantize(name: str | None) -> Quantize | None:
    """None or a scheme this engine has.

    Raises:
        RequestError: another one.
    """
    if name in (None, "none"):
        return None
    if name not in SCHEMES:
        raise RequestError(f"unknown scheme {name!r}", where="--quantize", fix=f"use {' or '.join(SCHEMES)}")
    return name


def predict_memory(
    config: VitaConfig, vocab_size: int, dtype: torch.dtype, context: int, quantize: Quantize | None = None
) -> dict[str, int]:
    """Bytes the model will take: each part's weights, the cache at a context, workspace and the process."""
    parts = {p: n * dtype.itemsize for p, n in parameter_counts(config, vocab_size).items()}
    if quantize:
        decoder = build_part("decoder", config, vocab_size, quantize).state_dict().values()
        parts["decoder"] = sum(t.nbytes if t.dtype in STORED else t.numel() * dtype.itemsize for t in decoder)
    weights = sum(parts.values())
    parts["kv cache"] = context * KVCache.bytes_per_position(config.decoder, dtype)
    parts["workspace"] = int(WORKSPACE * weights)
    parts["process"] = BASE_BYTES
    return parts


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
