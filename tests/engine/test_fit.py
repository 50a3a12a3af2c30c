"""The least rounded variant that fits is taken, and mapped pages can be given back without losing a value."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import vita
from vita.engine.device import predict_memory
from vita.engine.fit import choose_fit, parse_size
from vita.errors import RequestError, ResourceError
from vita.weights.find import DEFAULT, open_checkpoint
from vita.weights.pages import drop_pages

CPU = torch.device("cpu")


def test_sizes() -> None:
    assert parse_size("4GB", CPU) == parse_size(" 4 g ", CPU) == 4_000_000_000
    assert parse_size("3.5GiB", CPU) == int(3.5 * 2**30) and parse_size("800m", CPU) == 800_000_000
    assert parse_size("auto", CPU) > 1e8


@given(st.text(max_size=8))
def test_other_texts_are_a_size_or_a_sentence(text: str) -> None:
    try:
        assert parse_size(text, CPU) > 0
    except RequestError as error:
        assert "is no size" in str(error)


def test_the_least_rounded_variant_that_fits_is_taken() -> None:
    config = open_checkpoint(DEFAULT).config
    needs = {s: sum(predict_memory(config, 883, torch.bfloat16, 2048, s).values()) for s in (None, "int8", "int4")}
    assert needs[None] > needs["int8"] > needs["int4"]
    for scheme, need in needs.items():
        assert choose_fit(config, 883, torch.bfloat16, need, 2048, None) == (scheme, need)
    with pytest.raises(ResourceError, match=r"the smallest variant \(int4\) needs about .* GB and 0.0 GB are allowed"):
        choose_fit(config, 883, torch.bfloat16, 1, 2048, None)


def test_a_model_loads_as_it_fits(tmp_path: Path) -> None:
    assert vita.load(fit="50GB").engine.quantize is None
    with pytest.raises(RequestError, match="cannot go with --quantize"):
        vita.load(fit="1GB", quantize="int8")
    with pytest.raises(ResourceError, match="are allowed"):
        vita.load(fit="1MB")


@pytest.mark.skipif(sys.platform != "linux", reason="SKIPPED LOUDLY: pages are given back on Linux only")
def test_given_back_pages_are_read_again_and_other_memory_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    whole = torch.arange(16 << 20, dtype=torch.float32)  # 64 MiB
    save_file({"w": whole, "v": torch.ones(3)}, file)
    with safe_open(file, framework="pt") as opened:
        mapped = opened.get_tensor("w")
        assert torch.equal(mapped, whole)
        before = psutil.Process().memory_info().rss
        assert drop_pages(mapped, file)
        assert before - psutil.Process().memory_info().rss > 50 << 20
        assert torch.equal(mapped, whole)
    own = whole.clone()
    assert not drop_pages(own, file) and torch.equal(own, whole)
    assert not drop_pages(torch.ones(3), file)
