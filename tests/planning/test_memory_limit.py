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
from vita.checkpoint.convert import convert
from vita.checkpoint.mmap import drop_pages
from vita.checkpoint.open import DEFAULT, open_checkpoint
from vita.errors import RequestError, ResourceError
from vita.options import Quantize
from vita.planning.memory_plan import MemoryPlan, layer_bytes, parse_size, plan_memory, predict_memory

CPU = torch.device("cpu")
SCHEMES: tuple[Quantize | None, ...] = (None, "int8", "int4")
LOGO = Path(__file__).parents[2] / "assets" / "vita_logo.png"
TILED = vita.MediaOptions(max_tiles=4)  # the logo in four tiles and a thumbnail


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
    sizes = (config, 883, torch.bfloat16)
    needs = {
        scheme: sum(predict_memory(*sizes, 2048, scheme, device=CPU, mapped=True, limited=True).values())
        for scheme in SCHEMES
    }
    assert needs[None] > needs["int8"] > needs["int4"]
    for scheme, need in needs.items():
        assert plan_memory(*sizes, need, 2048, None, device=CPU, mapped=True) == MemoryPlan(scheme, need)
    with pytest.raises(ResourceError, match=r"the smallest variant \(int4\) needs about .* GB and 0.0 GB are allowed"):
        plan_memory(*sizes, 1, 2048, None, device=CPU, mapped=True)


def test_what_does_not_fit_whole_is_read_again_block_by_block() -> None:
    config = open_checkpoint(DEFAULT).config
    sizes = (config, 883, torch.bfloat16)
    whole = plan_memory(*sizes, 1 << 40, 2048, "int4", device=CPU, mapped=True)
    block = layer_bytes(config, "int4", torch.bfloat16)
    assert whole.streamed_layers == 0
    for blocks in range(1, config.decoder.num_layers):
        fit = plan_memory(*sizes, whole.need - blocks * block, 2048, "int4", device=CPU, mapped=True)
        assert fit == MemoryPlan("int4", whole.need - blocks * block, blocks + 1), "one more is there while it is used"
    with pytest.raises(ResourceError, match="are allowed"):
        plan_memory(*sizes, whole.need - config.decoder.num_layers * block, 2048, "int4", device=CPU, mapped=True)
    with pytest.raises(ResourceError, match="are allowed"):
        plan_memory(*sizes, whole.need - block, 2048, "int4", device=CPU, mapped=False)


@pytest.mark.skipif(sys.platform != "linux", reason="SKIPPED LOUDLY: pages are given back on Linux only")
def test_a_limited_model_answers_alike(tmp_path: Path) -> None:
    """Blocks that are given back after every use, and encoders and decoder that take turns."""
    convert(open_checkpoint(DEFAULT), tmp_path / "four", "int4")
    free = vita.load(tmp_path / "four", dtype="bfloat16", device="cpu")
    sizes = (free.engine.config, free.engine.tokenizer.size, torch.bfloat16)
    whole = plan_memory(*sizes, 1 << 40, 2048, "int4", device=CPU, mapped=True)
    fit = str(whole.need - 2 * layer_bytes(free.engine.config, "int4", torch.bfloat16))
    tight = vita.load(tmp_path / "four", dtype="bfloat16", device="cpu", fit=fit)
    assert tight.engine.memory_plan.streamed_layers == 3 and tight.engine.residency.limited
    for picture in LOGO, torch.full((224, 224, 3), 90).byte().numpy():
        asked = [m.ask("Describe this images.", images=[picture], options=TILED).token_ids for m in (free, tight)]
        assert asked[0] == asked[1] and len(asked[0]) > 5


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
