"""LoRA adapters: plain ones are added to the base, everything else is refused by name."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoint.test_checkpoints import PICTURE, QUESTION, SOUND, answer
from tests.checkpoints import Tensors, copy_mini, read_tensors
from tests.cli.commands import assert_sentence, run

import vita
from vita.checkpoint.lora import merge_lora
from vita.checkpoint.open import open_checkpoint
from vita.errors import CheckpointError
from vita.types import SamplingParams

# As peft 0.18 writes it for a plain adapter.
PLAIN: dict[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "somebody/base", "bias": "none", "corda_config": None, "ensure_weight_tying": False,
    "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
    "loftq_config": {}, "lora_alpha": 8, "lora_bias": False, "lora_dropout": 0.05, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "peft_version": "0.18.0",
    "qalora_group_size": 16, "r": 2, "rank_pattern": {}, "revision": None, "target_modules": ["q_proj", "v_proj"],
    "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_dora": False,
    "use_qalora": False, "use_rslora": False,
}  # fmt: skip
STEM = "base_model.model.model.layers.1.self_attn."
Q, OUT = (f"model.layers.1.self_attn.{name}" for name in ("q_proj", "o_proj"))


@pytest.fixture
def folder(mini: Path, tmp_path: Path) -> Path:
    return copy_mini(mini, tmp_path)


def adapter(folder: Path, *, rank: int = 2, **settings: Any) -> Path:
    out = folder.parent / "adapter"
    out.mkdir(exist_ok=True)
    config = PLAIN | {"r": rank} | settings
    (out / "adapter_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    tensors = {}
    for name, (rows, columns) in {"q_proj": (48, 48), "v_proj": (24, 48)}.items():
        stem = f"base_model.model.model.layers.1.self_attn.{name}"
        tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, columns)
        tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, rank)
    save_file(tensors, out / "adapter_model.safetensors")
    return out


@pytest.mark.parametrize(("settings", "scale"), [({}, 4.0), ({"use_rslora": True}, 8 / 2**0.5)])
def test_the_merge_is_the_sum(folder: Path, settings: dict[str, Any], scale: float) -> None:
    out = adapter(folder, **settings)
    save_file({"model.mm_projector.0.bias": torch.ones(48)}, out / "non_lora_trainables.safetensors")
    model = vita.load(out, base=folder, dtype="float32", device="cpu")
    tensors, delta = read_tensors(folder), read_tensors(out)
    for kind, ours in (("q_proj", "q"), ("v_proj", "v")):
        stem = f"model.layers.1.self_attn.{kind}"
        a, b = (delta[f"base_model.model.{stem}.lora_{half}.weight"] for half in "AB")
        wanted = tensors[f"{stem}.weight"] + scale * b @ a
        torch.testing.assert_close(getattr(model.engine.model.decoder.layers[1].attn, ours).weight.data, wanted)
    assert torch.equal(model.engine.model.projector.linears[0].bias.data, torch.ones(48))
    assert (
        answer(folder)
        != vita.Result.collect(
            model.stream(vita.user(QUESTION, image=PICTURE, audio=SOUND), SamplingParams(max_tokens=6))
        ).token_ids
    )


def test_a_converted_adapter_is_the_merged_model(folder: Path) -> None:
    """`vita convert ADAPTER OUT --base BASE`: what a server loads, which takes no adapter."""
    made = adapter(folder)
    out = folder.parent / "converted"
    assert run("convert", str(made), str(out), "--base", str(folder)).returncode == 0
    merged, converted = (
        vita.load(name, base=base, quantize=quantize, dtype="float32", device="cpu").engine.model.decoder.state_dict()
        for name, base, quantize in ((made, folder, "int8"), (out, None, None))
    )
    assert merged.keys() == converted.keys()
    assert all(torch.equal(merged[name], converted[name]) for name in merged)
    said = run("convert", str(made), str(folder.parent / "other"))
    assert_sentence(said, "adapter: is a LoRA folder; name the checkpoint that it was trained on as --base")


def test_modules_trained_whole_stand_among_the_adapters_tensors(folder: Path) -> None:
    out = adapter(folder)
    tensors = read_tensors(out)
    tensors["base_model.model.model.norm.weight"] = torch.full((48,), 3.0)
    tensors["base_model.model.model.layers.0.mlp.down_proj.modules_to_save.weight"] = torch.ones(48, 96)
    save_file(tensors, out / "adapter_model.safetensors")
    decoder = vita.load(out, base=folder, dtype="float32", device="cpu").engine.model.decoder
    assert (decoder.norm.weight == 3).all() and (decoder.layers[0].mlp.down.weight == 1).all()
    save_file(tensors | {"base_model.model.x.lora_embedding_A": torch.ones(2)}, out / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="lora_embedding_A', a kind of adapter"):
        vita.load(out, base=folder)


def test_settings_that_would_change_the_sum_are_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="rank_pattern is not supported"):
        vita.load(adapter(folder, rank_pattern={"q_proj": 64}), base=folder)


def test_what_cannot_be_merged_is_refused(folder: Path) -> None:
    out = adapter(folder, use_dora=True)
    with pytest.raises(CheckpointError, match="only plain LoRA adapters are supported"):
        vita.load(out, base=folder)
    out = adapter(folder, r=None)
    with pytest.raises(CheckpointError, match="needs r and lora_alpha"):
        vita.load(out, base=folder)
    out = adapter(folder)
    save_file({"base_model.model.model.layers.9.q.lora_A.weight": torch.zeros(2, 4)}, out / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="only one half of the adapter"):
        vita.load(out, base=folder)
    adapter(folder)
    save_file({"model.norm.weight": torch.zeros(3)}, out / "non_lora_trainables.safetensors")
    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight' has another shape"):
        vita.load(out, base=folder)
    (out / "non_lora_trainables.safetensors").unlink()
    (out / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no adapter_model\.safetensors"):
        vita.load(out, base=folder)


def test_weights_load_without_running_code(folder: Path, tmp_path: Path) -> None:
    out = adapter(folder)
    (out / "adapter_model.safetensors").unlink()
    flag = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (flag,)

    with (out / "adapter_model.bin").open("wb") as stream:
        pickle.dump({"x": Bomb()}, stream)
    with pytest.raises(CheckpointError, match="cannot be loaded as plain tensors; use safetensors"):
        vita.load(out, base=folder)
    assert not flag.exists()


def merged(folder: Path, out: Path, name: str) -> torch.Tensor:
    return merge_lora(open_checkpoint(folder, offline=True), out).store.get(name)


def refused(folder: Path, out: Path, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        merge_lora(open_checkpoint(folder, offline=True), out)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 700


def rewrite(out: Path, tensors: Tensors) -> None:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, out / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("settings", "scale"), [({}, 4.0), ({"use_rslora": True}, 8 / 2**0.5), ({"lora_alpha": 3}, 1.5)]
)
def test_a_bias_of_b_is_added_with_the_same_scale(folder: Path, settings: dict[str, Any], scale: float) -> None:
    out = adapter(folder, lora_bias=True, **settings)
    tensors = read_tensors(out)
    tensors |= {f"{STEM}q_proj.lora_B.bias": torch.randn(48), f"{STEM}v_proj.lora_B.bias": torch.randn(24)}
    rewrite(out, tensors)
    base = read_tensors(folder)
    for name in ("q_proj", "v_proj"):
        ours = f"model.layers.1.self_attn.{name}"
        wanted = base[f"{ours}.bias"] + scale * tensors[f"{STEM}{name}.lora_B.bias"]
        torch.testing.assert_close(merged(folder, out, f"{ours}.bias"), wanted)
        product = tensors[f"{STEM}{name}.lora_B.weight"] @ tensors[f"{STEM}{name}.lora_A.weight"]
        torch.testing.assert_close(merged(folder, out, f"{ours}.weight"), base[f"{ours}.weight"] + scale * product)
    # A bias that was trained as a whole comes first.
    tensors[f"{STEM}q_proj.base_layer.bias"] = torch.full((48,), 5.0)
    rewrite(out, tensors)
    wanted = 5.0 + scale * tensors[f"{STEM}q_proj.lora_B.bias"]
    torch.testing.assert_close(merged(folder, out, f"{Q}.bias"), wanted)


def test_a_bias_of_b_needs_a_bias_to_add_to(folder: Path) -> None:
    out = adapter(folder, lora_bias=True)
    save_file(
        {
            f"{STEM}o_proj.lora_A.weight": torch.randn(2, 48), f"{STEM}o_proj.lora_B.weight": torch.randn(48, 2),
            f"{STEM}o_proj.lora_B.bias": torch.randn(48),
        }, out / "adapter_model.safetensors",
    )  # fmt: skip
    refused(folder, out, r"adapts 'model\.layers\.1\.self_attn\.o_proj\.bias', which the base does not have")


@pytest.mark.parametrize(
    ("lora_bias", "size", "said"),
    [
        (False, 48, "holds a lora_B.bias of '.*q_proj', and lora_bias is false"),
        (True, None, "holds no lora_B.bias of '.*q_proj', and lora_bias is true"),
        (True, 47, "'.*q_proj.bias' has another shape than the base"),
        ("false", 48, "lora_bias must be true or false, not 'false'"),
    ],
)
def test_a_bias_of_b_that_does_not_fit_is_refused(folder: Path, lora_bias: object, size: int | None, said: str) -> None:
    out = adapter(folder, lora_bias=lora_bias)
    tensors = {name: tensor for name, tensor in read_tensors(out).items() if "q_proj" in name}
    rewrite(out, tensors | ({} if size is None else {f"{STEM}q_proj.lora_B.bias": torch.ones(size)}))
    refused(folder, out, said)


NOT_PLAIN: dict[str, Any] = {
    "init_lora_weights": ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "PISSA", 5, ["olora"]],
    "layer_replication": [[[0, 1], [0, 2]]], "alora_invocation_tokens": [[1, 2]],
    "target_parameters": [["experts.gate_up_proj"]], "use_qalora": [True], "trainable_token_indices": [[1], {"a": [1]}],
    "rank_pattern": [{"q_proj": 64}], "alpha_pattern": [{"q_proj": 64}], "fan_in_fan_out": [True],
    "megatron_config": [{"a": 1}], "arrow_config": [{"top_k": 3}], "ensure_weight_tying": [True],
    "a_key_of_the_future": [True, {"a": 1}, "x"], "lora_alpha": [math.nan, math.inf, "8", True, [8], 1e30],
    "r": [0, -2, 2.0, "2", True, 10**9], "use_rslora": ["false", 1], "use_dora": ["false", 1],
    "peft_type": [5, ["LORA"]],
}  # fmt: skip


@pytest.mark.parametrize("key", NOT_PLAIN)
def test_what_is_no_plain_addition_is_refused_by_name(folder: Path, key: str) -> None:
    for value in NOT_PLAIN[key]:
        refused(folder, adapter(folder, **{key: value}), rf"adapter_config\.json: '?{key}'? ")


@pytest.mark.parametrize("kind", ["LOHA", "LOKR", "ADALORA", "IA3", "OFT", "VERA", "PROMPT_TUNING", "lora"])
def test_other_kinds_of_adapters_are_refused(folder: Path, kind: str) -> None:
    refused(folder, adapter(folder, peft_type=kind), "only plain LoRA adapters are supported")
    refused(folder, adapter(folder, use_dora=True), "only plain LoRA adapters are supported")


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": value} for value in (True, False, None, "gaussian", "eva", "orthogonal")
    ] + [
        {"bias": "lora_only"}, {"layers_to_transform": [1]}, {"target_modules": "all-linear"}, {"task_type": None},
        {"runtime_config": {"ephemeral_gpu_offload": False}}, {"lora_alpha": 8.0},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_leave_the_sum_as_it_is_are_fine(folder: Path, settings: dict[str, Any]) -> None:
    out = adapter(folder, **settings)
    delta, base = read_tensors(out), read_tensors(folder)
    product = delta[f"{STEM}q_proj.lora_B.weight"] @ delta[f"{STEM}q_proj.lora_A.weight"]
    torch.testing.assert_close(merged(folder, out, f"{Q}.weight"), base[f"{Q}.weight"] + 4.0 * product)


def test_a_file_of_the_smallest_configuration_is_fine(folder: Path) -> None:
    out = adapter(folder)
    before = merged(folder, out, f"{Q}.weight")
    (out / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8}))
    assert torch.equal(merged(folder, out, f"{Q}.weight"), before)


def test_one_named_adapter_is_read_and_several_are_refused(folder: Path) -> None:
    out = adapter(folder)
    plain = read_tensors(out)
    expected = merged(folder, out, f"{Q}.weight")
    named = {name.replace(".weight", ".default.weight"): tensor for name, tensor in plain.items()}
    named[f"{STEM}o_proj.modules_to_save.default.weight"] = torch.ones(48, 48)
    rewrite(out, named)
    assert torch.equal(merged(folder, out, f"{Q}.weight"), expected)
    assert (merged(folder, out, f"{OUT}.weight") == 1).all()
    other = {name.replace(".default.", ".other."): tensor for name, tensor in named.items() if "lora" in name}
    rewrite(out, named | other)
    refused(folder, out, r"holds several adapters \('default', 'other'\); save one of them alone")
    rewrite(out, plain | other)
    refused(folder, out, r"holds several adapters \('\(unnamed\)', 'other'\)")
    rewrite(out, plain | {name.removeprefix("base_model.model."): tensor for name, tensor in plain.items()})
    refused(folder, out, r"holds lora_[AB] of 'model\.layers\.1\.self_attn\.[qv]_proj' twice")


TENSORS: dict[str, tuple[Tensors, str]] = {
    "NaN": ({f"{STEM}q_proj.lora_A.weight": torch.full((2, 48), math.nan)}, "holds NaN or infinite values"),
    "infinity": ({f"{STEM}q_proj.lora_B.weight": torch.full((48, 2), math.inf)}, "holds NaN or infinite values"),
    "a vector": ({f"{STEM}q_proj.lora_A.weight": torch.ones(48)}, r"has the shapes \[48\] and \[48, 2\], and r is 2"),
    "a convolution": ({f"{STEM}q_proj.lora_A.weight": torch.ones(2, 48, 1, 1)}, "has the shapes"),
    "another rank": (
        {f"{STEM}q_proj.lora_A.weight": torch.ones(4, 48), f"{STEM}q_proj.lora_B.weight": torch.ones(48, 4)},
        r"has the shapes \[4, 48\] and \[48, 4\], and r is 2",
    ),
    "another width": ({f"{STEM}q_proj.lora_A.weight": torch.ones(2, 47)}, "has another shape than the base"),
    "a magnitude": ({f"{STEM}q_proj.lora_magnitude_vector": torch.ones(48)}, "a kind of adapter that is not supported"),
    "an embedding": ({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(2)}, "a kind of adapter"),
    "trained tokens": (
        {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2)}, "a kind of",
    ),
    "a bias of A": ({f"{STEM}q_proj.lora_A.bias": torch.ones(2)}, "a kind of adapter that is not supported"),
    "a parameter": ({f"{STEM}q_proj.lora_A.default": torch.ones(2)}, "a kind of adapter that is not supported"),
    "a module that is not there": (
        {"base_model.model.model.layers.9.q.lora_A.weight": torch.ones(2, 4),
         "base_model.model.model.layers.9.q.lora_B.weight": torch.ones(4, 2)},
        r"adapts 'model\.layers\.9\.q\.weight', which the base does not have",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit_are_refused(folder: Path, name: str) -> None:
    changes, said = TENSORS[name]
    out = adapter(folder)
    rewrite(out, read_tensors(out) | changes)
    refused(folder, out, said)


def test_a_bin_file_that_is_no_mapping_of_tensors_is_refused(folder: Path) -> None:
    out = adapter(folder)
    (out / "adapter_model.safetensors").unlink()
    for content in ([torch.ones(2)], torch.ones(2), {5: torch.ones(2)}):
        torch.save(content, out / "adapter_model.bin")
        refused(folder, out, r"adapter_model\.bin: is not a mapping of names to tensors; use safetensors")
    (out / "adapter_model.bin").write_bytes(b"noise")
    refused(folder, out, r"adapter_model\.bin: cannot be loaded as plain tensors; use safetensors")
