"""Choose the device and dtype to compute in; read a GPU's utilisation.

`auto` follows the checkpoint's config and what the hardware supports. The reason is returned for `vita info` and logs.
"""

from __future__ import annotations

import torch

from vita.config import VitaConfig
from vita.errors import RequestError, ResourceError

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "float16": torch.float16, "fp16": torch.float16,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
}  # fmt: skip
SMALL_MODEL = 200_000_000  # parameters: below this a CPU answers in float32 before a GPU has started


def choose_device(name: str, parameters: int) -> torch.device:
    """Resolve `auto`, `cpu`, `cuda`, `cuda:1` or `mps` to an available device; `auto` keeps small models on the CPU.

    Args:
        name: of the device.
        parameters: number of parameters of the model.

    Raises:
        RequestError: `name` is not a device name. ResourceError: the device is not available.
    """
    if name == "auto":
        if parameters <= SMALL_MODEL:
            return torch.device("cpu")
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
    """The dtype to compute in, and the reason as a phrase for users.

    Raises:
        RequestError: `name` is not a dtype name.
    """
    if name != "auto":
        if name not in DTYPES:
            raise RequestError(f"unknown dtype {name!r}", where="--dtype", fix="use auto, float32, float16 or bfloat16")
        return DTYPES[name], "as requested"
    stored = DTYPES[config.dtype]
    if device.type != "cpu":
        return stored, "the checkpoint's dtype"
    if parameters <= SMALL_MODEL:
        return torch.float32, "a small model on a CPU is fastest and exact in float32"
    if stored == torch.float16:
        return torch.bfloat16, "CPUs with half-precision instructions have them for bfloat16"
    return stored, "the checkpoint's dtype"


def gpu_utilisation(device: torch.device) -> float | None:
    """Recent GPU utilisation in per cent; None without NVML, or on another device."""
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(device.index or 0)
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        return None
