"""The GPU whose utilisation is reported is the one that the model is on."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from vita.runtime import device
from vita.runtime.device import gpu_utilisation

BUSY = {"first": 7, "GPU-6ab1-second": 93}  # of the machine's two GPUs


class NVMLError(Exception):
    pass


def lookup(name: object) -> str:
    if name not in BUSY:
        raise NVMLError
    return str(name)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Two GPUs, of which CUDA_VISIBLE_DEVICES leaves the second."""
    fake: Any = ModuleType("pynvml")
    fake.NVMLError, fake.nvmlInit = NVMLError, lambda: None
    fake.nvmlDeviceGetHandleByIndex = lambda index: lookup(["first", "GPU-6ab1-second"][index])
    fake.nvmlDeviceGetHandleByUUID = lookup
    fake.nvmlDeviceGetUtilizationRates = lambda handle: SimpleNamespace(gpu=BUSY[handle])
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(device, "_start_nvml", lambda: None)
    return fake


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
@pytest.mark.parametrize(
    ("properties", "busy"),
    [
        (SimpleNamespace(uuid="6ab1-second"), 93.0),
        (SimpleNamespace(uuid="a part of a GPU"), None),
        (SimpleNamespace(), 7.0),  # a PyTorch that does not tell it
    ],
)
def test_it_is_looked_up_by_uuid(
    name: str, properties: SimpleNamespace, busy: float | None, nvml: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    assert gpu_utilisation(torch.device(name)) == busy


def test_other_devices_have_none(nvml: ModuleType) -> None:
    assert gpu_utilisation(torch.device("cpu")) is None
