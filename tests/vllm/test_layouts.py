"""The serving layout, adapters and n-gram speculation give the engine's ids, too; bfloat16 nearly always."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import vita
from tests.checkpoint.hub_server import Hub, serve
from tests.checkpoint.test_lora import PLAIN
from tests.checkpoints import AUDIO, VISION
from tests.vllm.cases import LOOK, PICTURES, cases
from tests.vllm.golden import golden_cases
from tests.vllm.running import Step, as_openai, ask_engine, ask_vllm
from tests.vllm.widened import widen
from vita.checkpoint.files import DEFAULT

MINI = Path(__file__).parents[1] / "goldens" / "mini"


def as_serving_layout(folder: Path) -> None:
    """Replace config.json by the nested one, and remove the side folders (spec section 10)."""
    text = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vision = folder.parent / VISION
    # fmt: off
    config = {
        "architectures": ["Qwen2ForConditionalGeneration"], "text_config": text,
        "vision_config": json.loads((vision / "config.json").read_text(encoding="utf-8")),
        "audio_config": {
            "input_dim": 80, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "normalize_before": True, "concat_after": False, "use_relative_pe": True,
            "max_position_embeddings": 5000,
        },
        "downsample_ratio": 0.5, "dynamic_image_size": True, "max_dynamic_patch": 12, "min_dynamic_patch": 1,
        "use_thumbnail": True, "tokenizer_model_max_length": 4600,
    }
    # fmt: on
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(vision / "preprocessor_config.json", folder)
    shutil.rmtree(vision)
    shutil.rmtree(folder / AUDIO)


def test_the_serving_layout(tmp_path: Path) -> None:
    folder, overrides = widen(MINI / "mini_ckpt", MINI / VISION, tmp_path)
    as_serving_layout(folder)
    found = golden_cases(MINI)
    steps = [Step([as_openai(case.messages)], mm_processor_kwargs={"reference": True}) for case in found]
    got = ask_vllm(folder, tmp_path / "job", steps, hf_overrides=overrides)
    assert [one.ids for (one,) in got] == [case.ids for case in found]


def test_an_adapter_of_the_decoder(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(PLAIN | {"r": 8}), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, rows in (("q_proj", 192), ("v_proj", 96)):
        for layer in range(6):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{stem}.lora_A.weight"] = 0.4 * torch.randn(8, 192, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = 0.4 * torch.randn(rows, 8, generator=generator)
    save_file(tensors, adapter / "adapter_model.safetensors")
    asked = [vita.user(LOOK, image=PICTURES[0])]
    steps = [Step([as_openai(asked)], lora=adapter), Step([as_openai(asked)])]
    (adapted,), (plain,) = ask_vllm(DEFAULT, tmp_path / "job", steps, enable_lora=True, max_lora_rank=8)
    assert adapted.ids == ask_engine(vita.load(adapter, base=DEFAULT, dtype="float32", device="cpu"), asked)
    assert plain.ids == ask_engine(vita.load(dtype="float32", device="cpu"), asked) != adapted.ids


def test_n_gram_speculation(tmp_path: Path) -> None:
    found = cases(MINI / "inputs")
    names = ["text", "several images", "the same image twice", "turns"]
    speculation = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    steps = [Step([as_openai(found[name])]) for name in names]
    got = ask_vllm(DEFAULT, tmp_path, steps, speculative_config=speculation)
    model = vita.load(dtype="float32", device="cpu")
    assert [one.ids for (one,) in got] == [ask_engine(model, found[name]) for name in names]


def test_bfloat16(tmp_path: Path) -> None:
    """Rounding decides between ids of nearly equal logits; 16 of 18 were equal where this was written."""
    found = cases(MINI / "inputs")
    got = ask_vllm(DEFAULT, tmp_path, [Step([as_openai(asked)]) for asked in found.values()], dtype="bfloat16")
    model = vita.load(dtype="bfloat16", device="cpu")
    equal = [one.ids == ask_engine(model, asked) for (one,), asked in zip(got, found.values(), strict=True)]
    assert sum(equal) >= 12, dict(zip(found, equal, strict=True))


def test_a_server_without_audio(tmp_path: Path) -> None:
    """An encoder that no request may use is not loaded."""
    found = cases(MINI / "inputs")
    steps = [Step([as_openai(found[name])]) for name in ("image", "audio", "text")]
    (image,), (audio,), (text,) = ask_vllm(DEFAULT, tmp_path, steps, limit_mm_per_prompt={"audio": 0})
    model = vita.load(dtype="float32", device="cpu")
    assert image.ids == ask_engine(model, found["image"]) and text.ids == ask_engine(model, found["text"])
    assert audio.error.startswith("At most 0 audio")


def test_a_name_on_the_hub(tmp_path: Path) -> None:
    """The released files are fetched once, from a hub on this machine, and are not changed."""
    asked = [vita.user(LOOK, image=PICTURES[0])]
    with serve(Hub("somebody/vita", DEFAULT)) as hub:
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hub")}
        ((answered,),) = ask_vllm("somebody/vita", tmp_path, [Step([as_openai(asked)])], environment=variables)
    assert answered.ids == ask_engine(vita.load(dtype="float32", device="cpu"), asked)
    assert len(hub.ranges) == 1, "the weights are downloaded once"
