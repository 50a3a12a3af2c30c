"""A memory limit chooses the variant, the KV budget is what is left, and released pages lose no value."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from benchmarks.make_checkpoint import RELEASED, USED_VOCAB
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import vita
from vita.checkpoint.convert import convert
from vita.checkpoint.files import DEFAULT
from vita.checkpoint.mmap import drop_pages
from vita.checkpoint.open import open_checkpoint
from vita.checkpoint.safetensors import TensorStore, read_header
from vita.errors import RequestError, ResourceError
from vita.model.kv_cache import KVCache
from vita.model.vita import VitaModel
from vita.options import SCHEMES, EngineOptions, Quantize, parse_size
from vita.planning.memory_plan import (
    PREFERRED,
    MemoryPlan,
    Placement,
    layer_bytes,
    part_bytes,
    plan_memory,
    predict_memory,
)
from vita.quant.scheme import STORED

PLACED = Placement(device=torch.device("cpu"), dtype=torch.bfloat16, mapped=True)
LOGO = Path(__file__).parents[2] / "assets" / "vita_logo.png"
TILED = vita.MediaOptions(max_tiles=4)  # the logo in four tiles and a thumbnail


@pytest.fixture(scope="module")
def embedded() -> VitaModel:
    return VitaModel.on_meta(open_checkpoint(DEFAULT).config, 883)


def of(size: int) -> EngineOptions:
    return EngineOptions(memory=str(size))


def position_bytes(model: VitaModel) -> int:
    return KVCache.bytes_per_position(model.config.decoder, torch.bfloat16)


def test_sizes() -> None:
    assert parse_size("4GB") == parse_size(" 4 g ") == 4_000_000_000
    assert parse_size("3.5GiB") == int(3.5 * 2**30) and parse_size("800m") == 800_000_000
    assert parse_size("auto") is None


@given(st.text(max_size=8) | st.text("0123456789.", max_size=400))
def test_other_texts_are_a_size_or_a_sentence(text: str) -> None:
    try:
        assert (parse_size(text) or 1) > 0
    except RequestError as error:
        assert "is not a size" in str(error)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sizes_derived_from_shapes_are_those_of_the_quantised_modules(embedded: VitaModel, scheme: Quantize) -> None:
    built = VitaModel.on_meta(embedded.config, 883, scheme)
    for name, part in built.parts():
        held = {n: t for n, t in part.state_dict().items() if n != "embed.weight"}
        expected = sum(
            t.nbytes if t.dtype in STORED or n.endswith(".scale") else 2 * t.numel() for n, t in held.items()
        )
        for model in embedded, built:
            assert part_bytes(model, scheme, torch.bfloat16)[name] == expected, name
    assert built.parameter_counts() == embedded.parameter_counts()


def test_the_least_quantised_variant_within_the_limit_is_taken(embedded: VitaModel) -> None:
    needs = {
        scheme: sum(predict_memory(embedded, PLACED, scheme, 2048, decoder_released=scheme is None).values())
        for scheme in PREFERRED
    }
    assert needs[None] > needs["int8"] > needs["int4"]
    context = 2048 * position_bytes(embedded)
    for scheme, need in needs.items():
        plan = plan_memory(embedded, PLACED, of(need))
        assert plan == MemoryPlan(scheme=scheme, bytes_needed=need, kv_budget=context), "the least budget is a context"
    with pytest.raises(ResourceError, match=r"the smallest variant \(int4\) needs about .* GB and 0.0 GB are allowed"):
        plan_memory(embedded, PLACED, of(1))


def test_layers_that_exceed_the_limit_are_streamed_from_disk(embedded: VitaModel) -> None:
    whole = plan_memory(embedded, PLACED, of(1 << 40), "int4")
    layer, layers = layer_bytes(embedded, "int4", torch.bfloat16), embedded.config.decoder.num_layers
    assert whole.streamed_layers == 0
    for count in range(1, layers):
        plan = plan_memory(embedded, PLACED, of(whole.bytes_needed - count * layer), "int4")
        assert (plan.scheme, plan.bytes_needed) == ("int4", whole.bytes_needed - count * layer)
        assert plan.streamed_layers == count + 1, "one more is in memory while it is used"
        assert plan.kv_budget == 2048 * position_bytes(embedded)
    with pytest.raises(ResourceError, match="are allowed"):
        plan_memory(embedded, PLACED, of(whole.bytes_needed - layers * layer), "int4")
    with pytest.raises(ResourceError, match="are allowed"):
        plan_memory(embedded, replace(PLACED, mapped=False), of(whole.bytes_needed - layer), "int4")


@given(st.integers(10_000_000, 40_000_000_000))
@pytest.mark.slow
def test_the_kv_budget_is_half_of_what_is_free_and_at_most_16_contexts(available: int) -> None:
    model = VitaModel.on_meta(RELEASED, USED_VOCAB)
    position, context = position_bytes(model), RELEASED.context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vita.planning.memory_plan.available_memory", lambda device: available)
        parts = predict_memory(model, PLACED, "int4", 2048)
        try:
            plan = plan_memory(model, PLACED, EngineOptions(quantize="int4"))
        except ResourceError:
            assert sum(parts.values()) > available
            return
        assert 2048 * position <= plan.kv_budget <= 16 * context * position
        beside = parts["decoder"] + parts["workspace"] + parts["process"]
        assert plan.kv_budget == 2048 * position or 2 * plan.kv_budget < available - beside
        limited = plan_memory(model, PLACED, EngineOptions(memory="auto"), "int4")
        assert plan.kv_budget <= limited.kv_budget <= max(2048 * position, available - beside)
        asked = EngineOptions(quantize="int4", kv_budget=position * 100)
        assert plan_memory(model, PLACED, asked).kv_budget == position * 100


def test_encoders_count_for_the_kv_budget_whether_loaded_or_not(embedded: VitaModel) -> None:
    """With all weights in memory, each byte of the limit is a weight, workspace, the process or the budget."""
    loose = replace(PLACED, mapped=False, dtype=torch.float32)
    parts, limit = predict_memory(embedded, loose, None, 2048), 2_000_000_000
    plan = plan_memory(embedded, loose, of(limit))
    sizes = part_bytes(embedded, None, torch.float32)
    rest = parts["workspace"] + parts["process"] + parts["embedding"]
    assert plan.kv_budget == limit - sum(sizes.values()) - rest


@pytest.mark.skipif(sys.platform != "linux", reason="SKIPPED LOUDLY: pages are given back on Linux only")
def test_a_limited_model_answers_alike(tmp_path: Path) -> None:
    """Layers streamed from disk, and encoders and decoder that run in turn."""
    convert(open_checkpoint(DEFAULT), tmp_path / "four", "int4")
    free = vita.load(tmp_path / "four", dtype="bfloat16", device="cpu")
    model = VitaModel.on_meta(free.engine.model.config, free.engine.model.tokenizer.size)
    whole = plan_memory(model, PLACED, of(1 << 40), "int4")
    limit = str(whole.bytes_needed - 2 * layer_bytes(model, "int4", torch.bfloat16))
    tight = vita.load(tmp_path / "four", dtype="bfloat16", device="cpu", memory=limit)
    assert tight.engine.model.memory_plan.streamed_layers == 3 and tight.engine.model.residency.limited
    for picture in LOGO, torch.full((224, 224, 3), 90).byte().numpy():
        asked = [m.ask("Describe this images.", images=[picture], options=TILED).token_ids for m in (free, tight)]
        assert asked[0] == asked[1] and len(asked[0]) > 5


def test_a_memory_limit_chooses_the_variant() -> None:
    assert vita.load(memory="50GB").engine.model.quantize is None
    with pytest.raises(RequestError, match=r"^memory: cannot be used with quantize; leave one of them out"):
        vita.load(memory="1GB", quantize="int8")
    with pytest.raises(ResourceError, match=r"^memory: .* are allowed"):
        vita.load(memory="1MB")


def test_fit_is_the_deprecated_name_of_memory() -> None:
    with pytest.warns(DeprecationWarning, match="fit is called memory now"):
        assert vita.load(fit="50GB").engine.model.options.memory == "50GB"
    with pytest.warns(DeprecationWarning), pytest.raises(RequestError, match=r"^fit: is the old name of memory"):
        vita.load(fit="1GB", memory="1GB")


@pytest.mark.skipif(sys.platform != "linux", reason="SKIPPED LOUDLY: pages are given back on Linux only")
@pytest.mark.parametrize("name", [b"plain", b"caf\xe9"])
def test_given_back_pages_are_read_again_and_other_memory_is_left_alone(tmp_path: Path, name: bytes) -> None:
    save_file({"w": torch.arange(16 << 20, dtype=torch.float32), "v": torch.ones(3)}, tmp_path / "new")  # 64 MiB
    file = (tmp_path / "new").rename(tmp_path / os.fsdecode(name))
    whole = torch.arange(16 << 20, dtype=torch.float32)
    mapped = TensorStore(read_header(file)).get("w")
    assert torch.equal(mapped, whole)
    before = psutil.Process().memory_info().rss
    assert drop_pages(mapped, file)
    assert before - psutil.Process().memory_info().rss > 50 << 20
    assert torch.equal(mapped, whole)
    own = whole.clone()
    assert not drop_pages(own, file) and torch.equal(own, whole)
    assert not drop_pages(torch.ones(3), file)
