"""Every layout loads to the same answers, untouched; every damage is one sentence that says what and where."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoints import AUDIO, VISION, copy_mini, edit_json, read_tensors, write_single

import vita
from vita.checkpoint.convert import convert
from vita.checkpoint.load import load_part
from vita.checkpoint.open import open_checkpoint
from vita.errors import CheckpointError, DownloadError, RequestError, ResourceError
from vita.model.vita import VitaModel
from vita.types import SamplingParams

QUESTION = "Hello, who are you?"
PICTURE = torch.arange(64 * 64 * 3).remainder(251).reshape(64, 64, 3).byte().numpy()
SOUND = vita.Audio((torch.sin(torch.arange(8000) * 0.3) * 8000).short().numpy(), 16000)


def answer(folder: Path, **options: Any) -> tuple[int, ...]:
    model = vita.load(folder, device="cpu", **({"dtype": "float32"} | options))
    asked = vita.user(QUESTION, image=PICTURE, audio=SOUND)
    return vita.Result.collect(model.stream(asked, SamplingParams(max_tokens=6))).token_ids


@pytest.fixture
def folder(mini: Path, tmp_path: Path) -> Path:
    return copy_mini(mini, tmp_path)


@pytest.fixture(scope="module")
def expected(mini: Path) -> tuple[int, ...]:
    return answer(mini / "mini_ckpt")


class TestLayouts:
    def test_a_single_file(self, folder: Path, expected: tuple[int, ...]) -> None:
        write_single(folder, read_tensors(folder))
        assert answer(folder) == expected

    @pytest.mark.parametrize(
        "named",
        ["/mnt/somebody/ckpts/InternViT-mini-112px", "D:\\ckpts\\InternViT-mini-112px", "./InternViT-mini-112px/"],
    )
    def test_paths_of_another_machine(self, folder: Path, expected: tuple[int, ...], named: str) -> None:
        edit_json(folder / "config.json", lambda c: c.update(mm_vision_tower=named))
        edit_json(folder / "config.json", lambda c: c.update(mm_audio_encoder=f"/nowhere/{AUDIO}"))
        assert answer(folder) == expected
        shutil.move(folder.parent / VISION, folder / VISION)  # inside instead of beside
        assert answer(folder) == expected

    def test_only_the_small_files_of_the_side_folders_are_needed(self, folder: Path, expected: tuple[int, ...]) -> None:
        (folder.parent / VISION / "model.safetensors").unlink(missing_ok=True)
        (folder / AUDIO / "final.pt").unlink(missing_ok=True)
        assert answer(folder) == expected

    def test_the_serving_layout(self, folder: Path, expected: tuple[int, ...]) -> None:
        old = json.loads((folder / "config.json").read_text())
        vision = json.loads((folder.parent / VISION / "config.json").read_text())
        pixels = (folder.parent / VISION / "preprocessor_config.json").read_text()
        new = {
            "architectures": ["Qwen2ForConditionalGeneration"], "text_config": old, "vision_config": vision,
            "audio_config": {
                "input_dim": 80, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                "num_attention_heads": 4, "normalize_before": True, "concat_after": False, "use_relative_pe": True,
                "max_position_embeddings": 5000,
            },
            "downsample_ratio": 0.5, "dynamic_image_size": True, "max_dynamic_patch": 12, "min_dynamic_patch": 1,
            "use_thumbnail": True, "tokenizer_model_max_length": 4600,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(new))
        (folder / "preprocessor_config.json").write_text(pixels)
        tensors = read_tensors(folder)
        (folder / "feature_extractor").mkdir()
        prefix = "model.audio_encoder.encoder.global_cmvn."
        features = {"cmvn_means": tensors[prefix + "mean"].tolist(), "cmvn_istds": tensors[prefix + "istd"].tolist()}
        (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(features))
        shutil.rmtree(folder / AUDIO)
        shutil.rmtree(folder.parent / VISION)
        assert answer(folder) == expected
        assert open_checkpoint(folder).config.layout == "serving"
        write_single(folder, {n: t for n, t in tensors.items() if not n.startswith(prefix)})
        assert answer(folder) == expected, "the statistics may stand in the feature extractor alone"

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_shards(self, folder: Path, dtype: torch.dtype) -> None:
        write_single(folder, {n: t if "cmvn" in n else t.to(dtype) for n, t in read_tensors(folder).items()})
        assert len(answer(folder)) == 6
        name = str(dtype).removeprefix("torch.")
        assert len(answer(folder, dtype=name)) == 6

    def test_tied_embeddings(self, folder: Path) -> None:
        tensors = read_tensors(folder)
        edit_json(folder / "config.json", lambda c: c.update(tie_word_embeddings=True))
        del tensors["lm_head.weight"]
        write_single(folder, tensors)
        tied = answer(folder)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        write_single(folder, tensors)
        edit_json(folder / "config.json", lambda c: c.update(tie_word_embeddings=False))
        assert answer(folder) == tied

    def test_rows_beyond_the_tokenizer_are_cut_off(self, mini_model: vita.Vita) -> None:
        engine = mini_model.engine
        assert engine.model.config.decoder.vocab_size == 1408 and engine.model.tokenizer.size == 1378
        assert engine.model.decoder.embed.weight.shape[0] == engine.model.decoder.head.weight.shape[0] == 1378

    def test_a_gpu_gets_all_but_the_embedding_table(self, mini: Path) -> None:
        """The meta device stands for a GPU: of the table rows are read from the file."""
        checkpoint, there = open_checkpoint(mini / "mini_ckpt"), torch.device("meta")
        decoder = VitaModel.on_meta(checkpoint.config, 1378).decoder
        assert load_part("decoder", decoder, checkpoint, torch.float32, there) is decoder
        places = {name: tensor.device.type for name, tensor in decoder.state_dict().items()}
        assert places.pop("embed.weight") == "cpu" and set(places.values()) == {"meta"}
        rows = decoder.embed_tokens(torch.tensor([[1, 2]]))
        assert rows.device == there and list(rows.shape) == [1, 2, decoder.config.hidden_size]

    def test_statistics_file_stands_in_for_missing_cmvn_tensors(self, folder: Path, expected: tuple[int, ...]) -> None:
        write_single(folder, {n: t for n, t in read_tensors(folder).items() if "global_cmvn" not in n})
        assert len(answer(folder)) == len(expected)

    def test_weights_are_mapped_not_copied(self, mini: Path) -> None:
        checkpoint = open_checkpoint(mini / "mini_ckpt")
        name = "model.layers.0.mlp.up_proj.weight"
        assert checkpoint.store.get(name).data_ptr() == checkpoint.store.get(name).data_ptr()
        model = vita.load(mini / "mini_ckpt", device="cpu", dtype="float32")
        inside = model.engine.model.decoder.layers[0].mlp.up.weight
        maps = Path("/proc/self/maps")
        if not maps.exists():
            pytest.skip("SKIPPED LOUDLY: no /proc here to look the mapping up in")
        spans = [line.split() for line in maps.read_text().splitlines() if line.endswith(".safetensors")]
        begins_ends = [tuple(int(x, 16) for x in span[0].split("-")) for span in spans]
        assert any(begin <= inside.data_ptr() < end for begin, end in begins_ends)

    def test_absent_modalities_are_not_loaded(self, mini: Path) -> None:
        model = vita.load(mini / "mini_ckpt", device="cpu", dtype="float32")
        loaded = model.engine.model
        params = SamplingParams(max_tokens=1)
        assert loaded.loaded == {"decoder"}
        model.ask(QUESTION, params=params)
        assert loaded.loaded == {"decoder"}
        model.ask(QUESTION, images=[PICTURE], params=params)
        assert loaded.loaded == {"decoder", "vision", "projector"}
        model.ask(audios=[SOUND], params=params)
        assert loaded.loaded == {"decoder", "vision", "projector", "audio", "adapter"}


def truncate(file: Path, keep: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])


def first_shard(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[0]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "is not a checkpoint, it has no config.json"),
    "config not json": (lambda f: (f / "config.json").write_text("{"), "config.json: is not valid JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: is not a JSON object"),
    "another model": (
        lambda f: edit_json(f / "config.json", lambda c: c.update(model_type="llama")),
        r"is the configuration of another model \('llama'\), not of VITA-1.5",
    ),
    "a key missing": (
        lambda f: edit_json(f / "config.json", lambda c: c.pop("hidden_size")),
        r"config\.json: hidden_size is missing",
    ),
    "a key absurd": (
        lambda f: edit_json(f / "config.json", lambda c: c.update(num_hidden_layers="two")),
        r"config\.json: num_hidden_layers must be an integer from 1 to 1000, not 'two'",
    ),
    "heads that share no keys evenly": (
        lambda f: edit_json(f / "config.json", lambda c: c.update(num_key_value_heads=3)),
        "num_attention_heads 4 is no multiple of num_key_value_heads 3",
    ),
    "s2": (lambda f: edit_json(f / "config.json", lambda c: c.update(use_s2=True)), "use_s2 is true"),
    "projector": (
        lambda f: edit_json(f / "config.json", lambda c: c.update(mm_projector_type="qformer")),
        "mm_projector_type 'qformer' is not supported; use mlp2x_gelu",
    ),
    "no index, no weights": (
        lambda f: [x.unlink() for x in [*f.glob("*.safetensors"), f / "model.safetensors.index.json"]],
        "holds no model.safetensors and no model.safetensors.index.json",
    ),
    "a shard missing": (lambda f: first_shard(f).unlink(), "1 of 2 weight files are missing: model-00001-of-00002"),
    "a shard truncated": (lambda f: truncate(first_shard(f), 0.6), r"is truncated: \d+ of \d+ bytes of tensors are"),
    "a shard with more": (
        lambda f: first_shard(f).write_bytes(first_shard(f).read_bytes() + b"xyz"), "has 3 bytes too many",
    ),
    "a shard emptied": (lambda f: first_shard(f).write_bytes(b""), "is not a complete safetensors file"),
    "a shard of noise": (lambda f: first_shard(f).write_bytes(b"\xff" * 2000), "is not a complete safetensors file"),
    "a header of noise": (
        lambda f: first_shard(f).write_bytes(struct.pack("<Q", 16) + b"not json at all!" + b"x" * 64),
        "has a damaged header",
    ),
    "index without map": (
        lambda f: (f / "model.safetensors.index.json").write_text("{}"),
        "model.safetensors.index.json: has no weight_map",
    ),
    "no audio folder": (lambda f: shutil.rmtree(f / AUDIO), f"the folder '{AUDIO}' that config.json names"),
    "yaml damaged": (lambda f: (f / AUDIO / "train.yaml").write_text("a: [1"), "train.yaml: is not readable YAML"),
    "no preprocessor": (
        lambda f: (f.parent / VISION / "preprocessor_config.json").unlink(),
        "preprocessor_config.json: is missing",
    ),
    "tokenizer missing": (
        lambda f: [x.unlink() for x in f.glob("tokenizer*")],
        "the tokenizer is missing",
    ),
    "tokenizer damaged": (lambda f: truncate(f / "tokenizer.json", 0.5), "its tokenizer files are damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_sentence(folder: Path, name: str) -> None:
    damage, said = DAMAGES[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=said) as caught:
        vita.load(folder, device="cpu", offline=True)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert str(folder.parent) in str(caught.value), "it says where"


def test_all_wrong_tensors_are_listed_at_once(folder: Path) -> None:
    tensors = read_tensors(folder)
    del tensors["model.norm.weight"], tensors["lm_head.weight"]
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(7, 48)
    tensors["model.surprise"] = torch.zeros(1)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)  # written by old exporters, read by none
    write_single(folder, tensors)
    with pytest.raises(CheckpointError) as caught:
        vita.load(folder)
    said = str(caught.value)
    assert "2 missing (" in said and "model.norm.weight" in said and "lm_head.weight" in said
    assert "model.layers.0.mlp.up_proj.weight [7, 48] instead of [96, 48]" in said
    assert "1 unexpected (model.surprise)" in said and "inv_freq" not in said


def test_names_of_tensors_are_printed_and_not_obeyed_by_the_terminal(folder: Path) -> None:
    tensors = read_tensors(folder)
    tensors["model.\x1b[2J\nvita: all is well"] = torch.zeros(1)
    write_single(folder, tensors)
    with pytest.raises(CheckpointError) as caught:
        vita.load(folder)
    assert r"1 unexpected ('model.\x1b[2J\nvita: all is well')" in str(caught.value)
    assert str(caught.value).isprintable()


def test_paths_that_are_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is a file, not a checkpoint folder"):
        vita.load(file)
    with pytest.raises(CheckpointError, match="no such folder; pass a checkpoint folder or a hub id"):
        vita.load(tmp_path / "nowhere")
    with pytest.raises(DownloadError, match="nobody/nothing: is not in the local cache and offline mode is on"):
        vita.load("nobody/nothing", offline=True)


def test_devices_dtypes_and_memory_are_checked_before_loading(mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = mini / "mini_ckpt"
    with pytest.raises(RequestError, match="unknown dtype 'int3'; use auto, float32"):
        vita.load(place, dtype="int3")
    with pytest.raises(RequestError, match="unknown device 'abacus'"):
        vita.load(place, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="no usable CUDA device; use cpu"):
            vita.load(place, device="cuda")
    monkeypatch.setattr("vita.planning.memory_plan.available_memory", lambda device: 50_000_000)
    with pytest.raises(ResourceError, match=r"needs about 0\.\d GB of memory and 0\.1 GB are available"):
        vita.load(place, device="cpu")


def test_a_folder_whose_name_is_not_utf8(mini: Path, tmp_path: Path, expected: tuple[int, ...]) -> None:
    folder = copy_mini(mini, tmp_path / os.fsdecode(b"caf\xe9"))
    assert answer(folder) == expected
    convert(open_checkpoint(folder), folder.parent / "int8", "int8")
    assert len(answer(folder.parent / "int8")) == len(expected)
