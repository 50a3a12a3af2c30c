"""Training multiplies in bfloat16 only where that is fast."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vita.layers import linear
from vita.runtime.cpu_features import CpuFeatures
from vita.train.optimizer import autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize(("speedup", "dtype"), [(4.5, torch.float32), (0.2, torch.bfloat16)])
def test_products_are_in_float32_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, speedup: float, dtype: torch.dtype
) -> None:
    """oneDNN takes bfloat16 on a CPU with AVX-512 and no instructions for it: slowly."""
    monkeypatch.setattr(linear, "float32_speedup", lambda dtype: speedup)
    features = CpuFeatures(SimpleNamespace(mkldnn=SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True)))
    monkeypatch.setattr(linear, "cpu_features", lambda: features)
    with autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
