"""Choose the device and the working dtype.

`auto` follows the checkpoint's config and what the hardware supports; the reason is kept for `vita info` and the logs.
Names are checked by `options.EngineOptions`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from vita.config import VitaConfig
from vita.errors import ResourceError

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "float16": torch.float16, "fp16": torch.float16,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
}  # fmt: skip
SMALL_MODEL = 200_000_000  # parameters; up to this size a CPU has answered in float32 before a GPU is initialised


def choose_device(name: str, parameters: int) -> torch.device:
    """The device of a name such as `auto`, `cpu`, `cuda:1` or `mps`; `auto` leaves small models on the CPU.

    Raises:
        ResourceError: this machine has no such device.
    """
    if name == "auto":
        if parameters <= SMALL_MODEL:
            return torch.device("cpu")
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ResourceError("this machine has no usable CUDA device", where="device", fix="use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"there is no {name}, only {torch.cuda.device_count()} CUDA devices", where="device", fix="use cuda:0"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ResourceError("this machine has no usable MPS device", where="device", fix="use cpu")
    return device


def choose_dtype(name: str, config: VitaConfig, parameters: int, device: torch.device) -> tuple[torch.dtype, str]:
    """The working dtype and the reason for it."""
    if name != "auto":
        return DTYPES[name], "as asked"
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
        _start_nvml()
        return float(pynvml.nvmlDeviceGetUtilizationRates(_nvml_handle(device)).gpu)
    except pynvml.NVMLError:
        return None


def _nvml_handle(device: torch.device) -> Any:
    """NVML's name of a device. It numbers all GPUs of the machine, and CUDA those of CUDA_VISIBLE_DEVICES, so that a
    number says little: the UUID is looked up where PyTorch tells it."""
    import pynvml

    index = device.index or 0
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    if uuid is None:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")


@functools.cache
def _start_nvml() -> None:
    """Once a process: it opens the driver, which takes milliseconds."""
    import pynvml

    pynvml.nvmlInit()
