"""Configuration values: read, refused by name where they would change the computation, one sentence where malformed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.checkpoints import AUDIO, VISION, copy_mini, edit_json, read_tensors, write_single

import vita
from vita.checkpoint.open import Checkpoint, open_checkpoint
from vita.errors import CheckpointError
from vita.types import SamplingParams

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(mini: Path, tmp_path: Path) -> Path:
    return copy_mini(mini, tmp_path)


def opened(folder: Path, change: Change) -> Checkpoint:
    edit_json(folder / "config.json", change)
    return open_checkpoint(folder, offline=True)


def answer(folder: Path) -> tuple[int, ...]:
    model = vita.load(folder, device="cpu", dtype="float32")
    return model.ask("Hello, who are you?", params=SamplingParams(max_tokens=12)).token_ids


def refused(folder: Path, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(folder, offline=True)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and str(folder.parent) in sentence


PLACES: dict[str, Callable[[dict[str, Any]], object]] = {
    "rope_parameters": lambda c: c.update(rope_parameters={"rope_theta": 1e4, "rope_type": "default"}),
    "rope_parameters without a type": lambda c: c.update(rope_parameters={"rope_theta": 10000}),
    "for each layer type": lambda c: c.update(
        rope_parameters={"full_attention": {"rope_theta": 1e4, "rope_type": "default"}}
    ),
    "rope_scaling as transformers 5 allows": lambda c: c.update(rope_scaling={"rope_theta": 1e4, "type": "default"}),
    "flat": lambda c: c.update(rope_theta=1e4),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("flat_key_too", [False, True])
def test_the_rope_base_is_read_from_every_place(folder: Path, name: str, flat_key_too: bool) -> None:
    def change(config: dict[str, Any]) -> None:
        if not flat_key_too:
            del config["rope_theta"]
        PLACES[name](config)

    assert opened(folder, change).config.decoder.rope_theta == 1e4


def test_another_rope_base_gives_another_answer(folder: Path) -> None:
    def moved(config: dict[str, Any]) -> None:
        config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}

    before = answer(folder)
    edit_json(folder / "config.json", moved)
    assert answer(folder) == before
    edit_json(folder / "config.json", lambda c: c.update(rope_parameters={"rope_theta": 10.0}))
    new = answer(folder)
    edit_json(folder / "config.json", lambda c: (c.pop("rope_parameters"), c.update(rope_theta=10.0)))
    assert answer(folder) == new


SCALINGS = ["linear", "dynamic", "yarn", "longrope", "llama3", "su", "mrope", "ntk", "proportional"]


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("type_key", ["type", "rope_type"])
@pytest.mark.parametrize("kind", SCALINGS)
def test_rope_scaling_is_refused_by_name(folder: Path, key: str, type_key: str, kind: str) -> None:
    edit_json(folder / "config.json", lambda c: c.update({key: {type_key: kind, "factor": 4.0}}))
    refused(folder, rf"config\.json: {key}\.rope_type '{kind}' is not supported")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a factor without a type": ({"rope_scaling": {"factor": 4.0}}, "rope_scaling.factor is set without a rope_type"),
    "sections": (
        {"rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}},
        r"rope_scaling\.mrope_section is \[16, 24, 24\], which is not supported",
    ),
    "part of a head": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    "none of a head": ({"partial_rotary_factor": 0.0}, "partial_rotary_factor is 0.0"),
    "part of a head, nested": (
        {"rope_parameters": {"partial_rotary_factor": 0.25}}, "rope_parameters.partial_rotary_factor is 0.25",
    ),
    "sliding layers": (
        {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types holds 'sliding_attention'",
    ),
    "chunked layers": ({"layer_types": ["chunked_attention"]}, "layer_types holds 'chunked_attention'"),
    "linear layers": ({"layer_types": ["linear_attention"]}, "layer_types holds 'linear_attention'"),
    "layer types as text": ({"layer_types": "full_attention"}, "layer_types must be a list"),
    "sliding window": ({"use_sliding_window": True}, "use_sliding_window is true, which is not supported"),
    "dual chunks": ({"dual_chunk_attention_config": {"chunk_size": 8}}, "dual_chunk_attention_config is"),
    "chunks": ({"attention_chunk_size": 8192}, "attention_chunk_size is 8192"),
    "softcap": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    "attention softcap": ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    "scaled residuals": ({"residual_multiplier": 0.22}, "residual_multiplier is 0.22"),
    "scaled logits": ({"logits_scaling": 8}, "logits_scaling is 8"),
    "norms of q and k": ({"use_qk_norm": True}, "use_qk_norm is true"),
    "experts": ({"num_experts": 8}, "num_experts is 8"),
    "another head size": ({"head_dim": 24}, "head_dim must be hidden_size / num_attention_heads = 12"),
    "quantised by others": ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is"),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; use silu"),
    "s2": ({"use_s2": True}, "use_s2 is true"),
    "projector": ({"mm_projector_type": "mlp0x_gelu"}, "mm_projector_type 'mlp0x_gelu' is not supported"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_keys_that_change_the_computation_are_refused_by_name(folder: Path, name: str) -> None:
    values, said = REFUSED[name]
    edit_json(folder / "config.json", lambda c: c.update(values))
    refused(folder, said)


HARMLESS: dict[str, Any] = {
    "rope_scaling": [None, {}, {"type": "default"}, {"rope_type": "default", "factor": 1.0}],
    "rope_parameters": [None, {}], "layer_types": [None, [], ["full_attention"] * 2], "sliding_window": [4096, None],
    "max_window_layers": [28], "use_sliding_window": [False, None], "partial_rotary_factor": [1, 1.0, None],
    "head_dim": [12, None], "hidden_act": ["silu", "swish", None], "attention_dropout": [0.5], "use_mrope": [False],
    "num_experts": [0], "quantization_config": [None, {}], "torch_dtype": ["float64", "torch.bfloat16", "auto", None],
    "tokenizer_model_max_length": [10**30, 1e30, None], "num_key_value_heads": [2],
    "rope_theta": [10000, 5e6],
}  # fmt: skip


@pytest.mark.parametrize("key", HARMLESS)
def test_values_that_change_nothing_are_fine(folder: Path, key: str) -> None:
    for value in HARMLESS[key]:
        assert opened(folder, lambda c, value=value: c.update({key: value})).config.decoder.num_layers == 2


def test_the_embedded_and_the_tiny_checkpoints_read_as_before(mini: Path) -> None:
    config = open_checkpoint(mini / "mini_ckpt", offline=True).config
    assert (config.decoder.hidden_size, config.decoder.num_kv_heads, config.decoder.rope_theta) == (48, 2, 1e6)
    assert (config.vision.image_size, config.image.size, config.audio.dim, config.max_length) == (112, 112, 32, 2048)
    assert config.generation.eos_ids == (1358, 1356) and not config.audio.dynamic_chunks and config.dtype == "float32"
    embedded = open_checkpoint(None, offline=True).config
    assert embedded.tiling.max_tiles == 4 and embedded.audio.positions_in_input and embedded.dtype == "bfloat16"


# Values that are wrong under any key that is read as such a type.
NOT_INTEGERS = ["2", 2.0, 2.5, True, [2], {"a": 2}, math.nan, math.inf, 0, -2, 10**9, 1e400, 10**30]
NOT_NUMBERS = ["1", True, [1.0], {}, math.nan, math.inf, -math.inf, 0, -1, 1e30, 10**400]
NOT_BOOLS = ["false", "true", 0, 1, 1.0, [], {}, math.nan]
NOT_TEXTS = [5, True, ["a"], {"a": 1}, 1.5]

CONFIG, TOWER, PIXELS, TRAIN, GENERATION = (
    "config.json", f"../{VISION}/config.json", f"../{VISION}/preprocessor_config.json", f"{AUDIO}/train.yaml",
    "generation_config.json",
)  # fmt: skip
TRANSFORMER = "encoder_conf.para_conf.transformer.transformer-"
KEYS: list[tuple[str, str, list[Any]]] = [
    *((CONFIG, key, NOT_INTEGERS) for key in (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
        "vocab_size", "max_position_embeddings", "max_dynamic_patch", "min_dynamic_patch", "head_dim",
    )),
    (CONFIG, "audio_prompt_num", [v for v in NOT_INTEGERS if v != 0 or isinstance(v, bool)]),
    (CONFIG, "tokenizer_model_max_length", ["2", True, [2], 0, -2, 2.5]),
    *((CONFIG, key, NOT_NUMBERS) for key in ("rms_norm_eps", "rope_theta")),
    *((CONFIG, key, NOT_BOOLS) for key in (
        "tie_word_embeddings", "use_s2", "audio_prompt_finetune", "dynamic_image_size", "use_thumbnail",
    )),
    *((CONFIG, key, NOT_TEXTS) for key in (
        "hidden_act", "mm_projector_type", "image_aspect_ratio", "torch_dtype", "mm_vision_tower", "mm_audio_encoder",
        "vita_quantization",
    )),
    (CONFIG, "torch_dtype", ["float8_e4m3fn", "int8", "banana"]),
    (CONFIG, "vita_untrained", ["audio", 5, [5], {"a": 1}, [None]]),
    (CONFIG, "layer_types", [5, [5], [None], {"a": 1}]),
    (CONFIG, "rope_scaling", [5, "yarn", [1], True]),
    (CONFIG, "rope_parameters", [5, "yarn", [1], {"rope_theta": "1e4"}, {"rope_theta": 0}, {"rope_type": 5}]),
    (CONFIG, "mm_vision_tower", ["", "/", "..", "a/..", "a\0b", "~nobody-of-this-name/x", "x" * 5000]),
    (CONFIG, "mm_audio_encoder", ["", "/", ".", "a\0b", "x" * 5000]),
    *((TOWER, key, NOT_INTEGERS) for key in (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size",
    )),
    (TOWER, "layer_norm_eps", NOT_NUMBERS),
    *((TOWER, key, NOT_BOOLS) for key in ("qkv_bias", "qk_normalization")),
    (TOWER, "norm_type", [*NOT_TEXTS, "batch_norm"]),
    (TOWER, "hidden_act", [*NOT_TEXTS, "quick_gelu", "gelu_pytorch_tanh", "silu"]),
    (TOWER, "num_channels", [1, 4, "3"]),
    (TOWER, "vision_config", [5, "a", [1]]),
    *((PIXELS, key, [*NOT_INTEGERS, 56, {"shortest_edge": "a"}, {"height": 112, "width": 100}, {"height": 0}])
      for key in ("size", "crop_size")),
    (PIXELS, "crop_size", [100, 224]),
    *((PIXELS, key, ["a", 5, [1, 2], [1, 2, 3, 4], ["a", "b", "c"], [0.5, 0.5, math.nan], [0.5, 0.5, -1], [[1], 2, 3],
                     [0.5, 0.5, 1e400]])
      for key in ("image_mean", "image_std")),
    (PIXELS, "image_std", [[0, 0, 0], [1, 1, 0]]),
    (PIXELS, "resample", [0, 1, 2, 5, "3", [3], 3.5]),
    (PIXELS, "rescale_factor", [1.0, "1/255", 0, math.nan]),
    *((PIXELS, key, [*NOT_BOOLS, False]) for key in ("do_resize", "do_center_crop", "do_normalize", "do_rescale")),
    *((TRAIN, TRANSFORMER + key, NOT_INTEGERS)
      for key in ("attention-dim", "attention-heads", "linear-units", "num-blocks")),
    *((TRAIN, TRANSFORMER + key, ["2", 2.5, True, [2], -2, 10**9]) for key in ("chunk-size", "left_chunks")),
    *((TRAIN, TRANSFORMER + key, NOT_BOOLS)
      for key in ("normalize-before", "concat-after", "dynamic-chunks", "positions-in-input")),
    (TRAIN, TRANSFORMER + "pos-enc-class", [*NOT_TEXTS, "abs-enc", None]),
    (TRAIN, TRANSFORMER + "positionwise-layer-type", [*NOT_TEXTS, "conv1d"]),
    (TRAIN, TRANSFORMER + "input-layer", [*NOT_TEXTS, "conv2d"]),
    (TRAIN, "input_dim", [*NOT_INTEGERS, 40]),
    (TRAIN, "model_conf.kernel_size", NOT_INTEGERS),
    (TRAIN, "model_conf.activation_func", [*NOT_TEXTS, "swish"]),
    (TRAIN, "model_conf.norm", [*NOT_TEXTS, "group"]),
    (TRAIN, "model_conf.adpter_type", [*NOT_TEXTS, "cnn"]),
    (TRAIN, "model_conf.add_audio_bos_eos", [True]),
    (TRAIN, "encoder_conf.para_conf.subsampling.subsampling-rate", [2, 8, "4"]),
    (TRAIN, "encoder_conf.overview_conf.encoder-layer-config", ["conformer", 5]),
    *((TRAIN, key, [5, "a", [1]]) for key in (
        "encoder_conf", "encoder_conf.para_conf", "encoder_conf.para_conf.transformer", "model_conf", "dataset_conf",
        "dataset_conf.fbank_conf", "dataset_conf.resample_conf",
    )),
    (TRAIN, "dataset_conf.fbank_conf.num_mel_bins", [*NOT_INTEGERS, 40]),
    (TRAIN, "dataset_conf.resample_conf.resample_rate", NOT_INTEGERS),
    *((TRAIN, f"dataset_conf.fbank_conf.{key}", NOT_NUMBERS) for key in ("frame_length", "frame_shift")),
    (GENERATION, "eos_token_id", [["a"], [1.5], [True], -1, 1.5, "5", {"a": 1}, [[1]]]),
    (GENERATION, "pad_token_id", ["5", 1.5, True, [1], {"a": 1}]),
    (GENERATION, "repetition_penalty", NOT_NUMBERS),
    *((GENERATION, key, [value]) for key, value in (
        ("no_repeat_ngram_size", 3), ("num_beams", 4), ("suppress_tokens", [1, 2]), ("bad_words_ids", [[5]]),
        ("begin_suppress_tokens", [5]), ("min_new_tokens", 9), ("guidance_scale", 1.5), ("forced_eos_token_id", 7),
        ("encoder_repetition_penalty", 1.2), ("sequence_bias", {"a": 1}),
    )),
]  # fmt: skip


def put(data: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
    for spelling in (last.replace("chunk-size", "chunk_size"), last.replace("left-chunks", "left_chunks"), last):
        data.pop(spelling, None)
    data[last] = value


def change_file(file: Path, change: Change) -> None:
    if file.suffix == ".yaml":
        data = yaml.safe_load(file.read_text())
        change(data)
        file.write_text(yaml.safe_dump(data))
    else:
        edit_json(file, change)


@pytest.mark.parametrize(("file", "key", "values"), KEYS, ids=[f"{Path(f).name}-{k}" for f, k, _ in KEYS])
def test_a_wrong_value_is_one_sentence_with_its_file_and_key(
    folder: Path, file: str, key: str, values: list[Any]
) -> None:
    before = (folder / file).read_text()
    for value in values:
        (folder / file).write_text(before)
        change_file(folder / file, lambda data, value=value: put(data, key, value))
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(folder, offline=True)
        said = str(caught.value)
        assert Path(file).name in said or key.startswith("mm_"), (value, said)
        assert said.endswith(".") and "\n" not in said and len(said) < 700, said
        last = key.rsplit(".", 1)[-1].replace("_", "-")
        assert last in said.replace("_", "-") or "does not split" in said or "must be" in said, (value, said)


def test_sizes_that_do_not_go_together_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c.update(hidden_size=50))
    refused(folder, "hidden_size 50 does not split into 4 heads of an even size")
    edit_json(folder / "config.json", lambda c: c.update(hidden_size=48, min_dynamic_patch=5, max_dynamic_patch=3))
    refused(folder, "min_dynamic_patch 5 is more than max_dynamic_patch 3")
    edit_json(folder / "config.json", lambda c: c.update(min_dynamic_patch=1))
    edit_json(folder.parent / VISION / "config.json", lambda c: c.update(image_size=98))
    refused(folder, "image_size gives a grid of 7x7 patches; pixel shuffle needs an even number")


def serving(folder: Path, **changes: Any) -> None:
    """The same checkpoint in the serving layout, with other values under dotted keys."""
    text = json.loads((folder / "config.json").read_text())
    vision = json.loads((folder.parent / VISION / "config.json").read_text())
    config = {
        "architectures": ["Qwen2ForConditionalGeneration"], "text_config": text, "vision_config": vision,
        "audio_config": {
            "input_dim": 80, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "hidden_act": "relu", "layer_norm_eps": 1e-5, "use_relative_pe": True,
        },
        "downsample_ratio": 0.5, "vision_feature_layer": -1, "projector_hidden_act": "gelu",
    }  # fmt: skip
    for key, value in changes.items():
        put(config, key.replace("__", "."), value)
    (folder / "config.json").write_text(json.dumps(config))
    pixels = (folder.parent / VISION / "preprocessor_config.json").read_text()
    (folder / "preprocessor_config.json").write_text(pixels)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text_config": None}, "is the configuration of another model"),
        ({"text_config": []}, "text_config must be a mapping"),
        ({"vision_config": "a"}, "vision_config must be a mapping"),
        ({"audio_config": [1]}, "audio_config must be a mapping"),
        ({"audio_config__hidden_size": None}, r"audio_config\.hidden_size is missing"),
        ({"audio_config__hidden_act": "gelu"}, r"audio_config\.hidden_act is 'gelu'"),
        ({"audio_config__layer_norm_eps": 1e-6}, r"audio_config\.layer_norm_eps is 1e-06"),
        ({"audio_config__use_relative_pe": False}, r"audio_config\.use_relative_pe is false"),
        ({"audio_config__max_position_embeddings": 0}, "max_position_embeddings must be an integer from 2"),
        ({"downsample_ratio": 1.0}, "downsample_ratio is 1.0"),
        ({"downsample_ratio": 0}, "downsample_ratio is 0"),
        ({"vision_feature_layer": 0}, "vision_feature_layer is 0"),
        ({"vision_feature_layer": -2}, "vision_feature_layer is -2"),
        ({"projector_hidden_act": "silu"}, "projector_hidden_act is 'silu'"),
        ({"audio_projector_hidden_act": "tanh"}, "audio_projector_hidden_act 'tanh' is not supported"),
        ({"audio_projector_kernel_size": 0}, "audio_projector_kernel_size must be an integer"),
        ({"text_config__rope_scaling": {"type": "yarn"}}, r"text_config\.rope_scaling\.rope_type 'yarn'"),
        ({"text_config__num_hidden_layers": 10**9}, r"text_config\.num_hidden_layers must be an integer from 1 to"),
    ],
)  # fmt: skip
def test_the_serving_layout_is_read_by_the_same_rules(folder: Path, changes: dict[str, Any], said: str) -> None:
    serving(folder, **changes)
    refused(folder, said)


@pytest.mark.parametrize(
    "means", [5, "a", [1.0] * 79, [1.0] * 81, ["a"] * 80, [[1.0]] * 80, [math.nan] * 80, [True] * 80]
)
def test_statistics_of_the_serving_layout_are_checked(folder: Path, means: object) -> None:
    serving(folder)
    assert open_checkpoint(folder, offline=True).config.layout == "serving"
    (folder / "feature_extractor").mkdir()
    file = folder / "feature_extractor" / "preprocessor_config.json"
    file.write_text(json.dumps({"cmvn_means": [0.0] * 80, "cmvn_istds": means}))
    refused(folder, r"feature_extractor/preprocessor_config\.json: cmvn_istds must be a list of 80 finite numbers")


@pytest.mark.parametrize(
    "change",
    [
        {"frame_num": 0}, {"frame_num": "5"}, {"frame_num": math.nan}, {"frame_num": None}, {"frame_num": -1},
        {"mean_stat": [1.0] * 79}, {"mean_stat": "a"}, {"mean_stat": [math.inf] * 80}, {"mean_stat": [[1.0]] * 80},
        {"mean_stat": [10**400] * 80}, {"var_stat": None}, {"var_stat": 5}, {"var_stat": ["1"] * 80},
    ],
    ids=lambda c: f"{c!r}"[:40],
)  # fmt: skip
def test_statistics_of_the_audio_folder_are_checked(folder: Path, change: dict[str, Any]) -> None:
    edit_json(folder / AUDIO / "global_cmvn", lambda c: c.update(change))
    refused(folder, f"global_cmvn: {next(iter(change))} ")


@pytest.mark.parametrize("value", [["a"], [1.5], [True], -1, 1.5, "5", {"a": 1}, [[1]], 10**20, [None]], ids=repr)
def test_stop_ids_of_config_json_are_checked_where_they_count(folder: Path, value: object) -> None:
    edit_json(folder / "config.json", lambda c: c.update(eos_token_id=7))
    (folder / "generation_config.json").unlink()
    assert open_checkpoint(folder, offline=True).config.generation.eos_ids == (7,)
    edit_json(folder / "config.json", lambda c: c.update(eos_token_id=value))
    refused(folder, r"config\.json: eos_token_id must be a token id or a list of token ids, not ")


def test_a_thousand_layers_are_the_most(folder: Path) -> None:
    refused_at = [1001, 10**6, 10**9, 10**18]
    for count in refused_at:
        edit_json(folder / "config.json", lambda c, count=count: c.update(num_hidden_layers=count))
        refused(folder, f"num_hidden_layers must be an integer from 1 to 1000, not {count}")


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 5), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from(["default", "gelu", "silu", "rel-enc", "full_attention", "float32"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip
ALL_KEYS = sorted({(file, key) for file, key, _ in KEYS})


@pytest.fixture(scope="module")
def files(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    folder = copy_mini(mini, tmp_path_factory.mktemp("fuzzed"))
    write_single(folder, read_tensors(folder))
    yield folder, {file: (folder / file).read_text() for file, _ in ALL_KEYS}


CHANGES = st.lists(st.tuples(st.sampled_from(ALL_KEYS), VALUES), min_size=1, max_size=3)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(FEW, max_examples=150)


def assert_values_give_a_checkpoint_or_one_sentence(
    files: tuple[Path, dict[str, str]], changes: list[tuple[tuple[str, str], Any]]
) -> None:
    folder, texts = files
    for file, text in texts.items():
        (folder / file).write_text(text)
    for (file, key), value in changes:
        try:
            change_file(folder / file, lambda data, key=key, value=value: put(data, key, value))
        except (AttributeError, TypeError, UnicodeEncodeError):
            return  # an earlier change left no mapping to put it into, or a value that no file can hold
    try:
        config = open_checkpoint(folder, offline=True).config
    except CheckpointError as error:
        assert "\n" not in str(error)
        return
    assert config.decoder.num_layers <= 1000 and config.decoder.head_dim * config.decoder.num_heads > 0
    assert config.vision.tokens_per_tile > 0 and math.isfinite(config.decoder.rope_theta)


@FEW
@given(CHANGES)
def test_any_values_give_a_checkpoint_or_one_sentence(files: tuple[Path, dict[str, str]], changes: Any) -> None:
    assert_values_give_a_checkpoint_or_one_sentence(files, changes)


@pytest.mark.slow
@MANY
@given(CHANGES)
def test_150_times_any_values(files: tuple[Path, dict[str, str]], changes: Any) -> None:
    assert_values_give_a_checkpoint_or_one_sentence(files, changes)


def assert_bytes_give_a_checkpoint_or_one_sentence(files: tuple[Path, dict[str, str]], data: st.DataObject) -> None:
    folder, texts = files
    for file, text in texts.items():
        (folder / file).write_text(text)
    file = data.draw(st.sampled_from(sorted(texts)))
    raw = bytearray(texts[file].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 6))] = data.draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"[" * 9, b"{", b"null", b"1e999", b"&a *a", b"!!int x"]))
        )
    (folder / file).write_bytes(bytes(raw))
    try:
        open_checkpoint(folder, offline=True)
    except CheckpointError as error:
        assert "\n" not in str(error)


@FEW
@given(st.data())
def test_any_bytes_in_a_configuration_file_give_a_checkpoint_or_one_sentence(
    files: tuple[Path, dict[str, str]], data: st.DataObject
) -> None:
    assert_bytes_give_a_checkpoint_or_one_sentence(files, data)


@pytest.mark.slow
@MANY
@given(st.data())
def test_150_times_any_bytes(files: tuple[Path, dict[str, str]], data: st.DataObject) -> None:
    assert_bytes_give_a_checkpoint_or_one_sentence(files, data)
