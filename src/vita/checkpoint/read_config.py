"""Configuration files of every known layout, read into `vita.config` dataclasses.

Covers `config.json`, `preprocessor_config.json`, `train.yaml` and `generation_config.json` (spec sections 1, 3.3, 4
and 10). A key that would change the computation in a way this engine does not implement is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vita.checkpoint.settings import Settings, is_finite, show
from vita.config import (
    AudioConfig,
    DecoderConfig,
    FilterbankConfig,
    GenerationConfig,
    ImagePreprocess,
    Tiling,
    VisionConfig,
    VitaConfig,
)
from vita.errors import CheckpointError

KNOWN_MODEL_TYPES = ("vita-Qwen2", "vita-qwen2")
MAX_LAYERS = 1000
MAX_SIZE = 1 << 17  # of any hidden size
MAX_HEADS = 1024
MAX_POSITIONS = 1 << 24
MAX_ID = (1 << 31) - 1
MAX_TILES = 64
MAX_EDGE = 4096  # pixels
DTYPES = {
    "float32": "float32", "float": "float32", "float64": "float32", "double": "float32", "auto": "float32",
    "float16": "float16", "half": "float16", "bfloat16": "bfloat16",
}  # fmt: skip

# Keys that change a decoder's computation, with the values that do not.
DECODER_REFUSED: dict[str, tuple[object, ...]] = {
    "use_sliding_window": (), "use_mrope": (), "attention_chunk_size": (), "dual_chunk_attention_config": (),
    "sparse_attention_config": (), "partial_rotary_factor": (1, 1.0), "rope_ratio": (1, 1.0), "rope_interleave": (),
    "use_dynamic_ntk": (), "use_logn_attn": (), "alibi": (), "no_rope_layers": (), "clip_qkv": (), "use_qk_norm": (),
    "qk_norm": (), "qk_layernorm": (), "mlp_bias": (), "attn_logit_softcapping": (), "final_logit_softcapping": (),
    "query_pre_attn_scalar": (), "attention_multiplier": (), "residual_multiplier": (1, 1.0),
    "embedding_multiplier": (1, 1.0), "logits_scaling": (1, 1.0), "logit_scale": (1, 1.0), "scale_emb": (1, 1.0),
    "num_experts": (), "num_local_experts": (), "use_bidirectional_attention": (), "quantization_config": (),
    "compression_config": (),
}  # fmt: skip
# The same for the tokens that greedy decoding chooses.
GENERATION_REFUSED: dict[str, tuple[object, ...]] = {
    "no_repeat_ngram_size": (), "encoder_repetition_penalty": (1, 1.0), "encoder_no_repeat_ngram_size": (),
    "num_beams": (1,), "num_beam_groups": (1,), "suppress_tokens": (), "begin_suppress_tokens": (),
    "bad_words_ids": (), "force_words_ids": (), "constraints": (), "sequence_bias": (), "forced_bos_token_id": (),
    "forced_eos_token_id": (), "forced_decoder_ids": (), "exponential_decay_length_penalty": (), "min_length": (),
    "min_new_tokens": (), "guidance_scale": (1, 1.0), "penalty_alpha": (), "dola_layers": (),
    "watermarking_config": (),
}  # fmt: skip
PREPROCESSOR_REFUSED: dict[str, tuple[object, ...]] = {"resample": (3,), "do_pad": (), "crop_to_patches": ()}


def is_serving_layout(config: Settings) -> bool:
    """Whether this config.json is the nested one of spec section 10."""
    return "text_config" in config and "vision_config" in config


def check_model_type(config: Settings) -> None:
    """Refuse the config.json of another model.

    Raises:
        CheckpointError: naming the type found.
    """
    if is_serving_layout(config) or config.data.get("model_type") in KNOWN_MODEL_TYPES:
        return
    names = config.data.get("architectures")
    found = config.data.get("model_type") or (names[0] if isinstance(names, list) and names else "nothing")
    raise CheckpointError(
        f"is the configuration of another model ({show(found)}), not of VITA-1.5",
        where=config.where,
        fix="pass a folder whose config.json has model_type 'vita-Qwen2'",
    )


def read_main(
    config: Settings, vision: Settings, preprocessor: Settings, train: Settings, generation: Settings | None
) -> VitaConfig:
    """The released layout: one flat config.json, and two folders of configuration.

    Raises:
        CheckpointError: a value is missing, of another type, out of bounds, or not supported.
    """
    if config.boolean("use_s2", False):
        config.fail("use_s2", "is true, which is not supported")
    vision_config = read_vision(vision.section("vision_config") if "vision_config" in vision else vision)
    pad = config.text("image_aspect_ratio", "square") == "pad"
    audio = read_train_yaml(train, config)
    return VitaConfig(
        decoder=read_decoder(config),
        vision=vision_config,
        audio=audio,
        image=read_preprocessor(preprocessor, vision_config, pad),
        tiling=read_tiling(config, vision_config),
        filterbank=_filterbank_of_train_yaml(train, audio),
        generation=read_generation(generation, config),
        projector_layers=_projector_layers(config),
        max_length=_max_length(config),
        dtype=_dtype(config),
        layout="main",
    )


def read_serving(
    config: Settings, preprocessor: Settings, features: Settings, generation: Settings | None
) -> VitaConfig:
    """The serving layout: one nested config.json (spec section 10).

    Raises:
        CheckpointError: a value is missing, of another type, out of bounds, or not supported.
    """
    text = config.section("text_config")
    config.refuse({
        "downsample_ratio": (0.5,), "vision_feature_layer": (-1,), "select_layer": (-1,), "quantization_config": (),
        "vision_feature_select_strategy": ("default",), "projector_hidden_act": ("gelu",),
    })  # fmt: skip
    vision_config = read_vision(config.section("vision_config"))
    audio = _serving_audio(config)
    return VitaConfig(
        decoder=read_decoder(text),
        vision=vision_config,
        audio=audio,
        image=read_preprocessor(preprocessor, vision_config, pad=False),
        tiling=read_tiling(config, vision_config),
        filterbank=_filterbank(features, features, "sampling_rate", audio),
        generation=read_generation(generation, text),
        max_length=_max_length(config),
        dtype=_dtype(config if "torch_dtype" in config or "dtype" in config else text),
        layout="serving",
    )


def read_decoder(config: Settings) -> DecoderConfig:
    """The decoder's keys, flat or from `text_config`."""
    config.choice("hidden_act", "silu", ("silu", "swish"))
    config.refuse(DECODER_REFUSED)
    for kind in config.items("layer_types"):
        if kind != "full_attention":
            config.fail("layer_types", f"holds {show(kind)}, and only full_attention is supported")
    size = config.integer("hidden_size", high=MAX_SIZE)
    heads = config.integer("num_attention_heads", high=MAX_HEADS)
    kv_heads = config.integer("num_key_value_heads", heads, high=MAX_HEADS)
    if heads % kv_heads:
        config.fail("num_attention_heads", f"{heads} is no multiple of num_key_value_heads {kv_heads}")
    if size % (2 * heads):
        config.fail("hidden_size", f"{size} does not split into {heads} heads of an even size")
    if config.integer("head_dim", size // heads) != size // heads:
        config.fail("head_dim", f"must be hidden_size / num_attention_heads = {size // heads}")
    return DecoderConfig(
        hidden_size=size,
        intermediate_size=config.integer("intermediate_size"),
        num_layers=config.integer("num_hidden_layers", high=MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        vocab_size=config.integer("vocab_size", high=1 << 24),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6, low=1e-30, high=1.0),
        rope_theta=_rope_theta(config),
        max_positions=config.integer("max_position_embeddings", 32768, high=MAX_POSITIONS),
        tie_word_embeddings=config.boolean("tie_word_embeddings", False),
    )


def _rope_theta(config: Settings) -> float:
    """The base of the rotary embedding; `rope_parameters` (transformers 5) goes before the flat key, as there."""
    places = [config]
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.section(key)
        if "full_attention" in rope:  # one mapping for each layer type
            rope = rope.section("full_attention")
        kind = rope.text("rope_type", rope.text("type", "default"))
        if kind != "default":
            rope.fail("rope_type", f"{show(kind)} is not supported")
        if "factor" in rope and "rope_type" not in rope and "type" not in rope:
            rope.fail("factor", "is set without a rope_type")
        rope.refuse({"mrope_section": (), "partial_rotary_factor": (1, 1.0)})
        places.append(rope)
    theta = 1e6
    for place in places:
        theta = place.number("rope_theta", theta, low=1.0, high=1e15)
    return theta


def read_vision(config: Settings) -> VisionConfig:
    """InternViT's keys; a missing one takes the 6B model's value (spec section 4)."""
    base = VisionConfig()
    config.refuse({"num_channels": (3,), "quantization_config": ()})
    vision = VisionConfig(
        hidden_size=config.integer("hidden_size", base.hidden_size, high=MAX_SIZE),
        intermediate_size=config.integer("intermediate_size", base.intermediate_size),
        num_layers=config.integer("num_hidden_layers", base.num_layers, high=MAX_LAYERS),
        num_heads=config.integer("num_attention_heads", base.num_heads, high=MAX_HEADS),
        image_size=config.integer("image_size", base.image_size, high=MAX_EDGE),
        patch_size=config.integer("patch_size", base.patch_size, high=1024),
        layer_norm_eps=config.number("layer_norm_eps", base.layer_norm_eps, low=1e-30, high=1.0),
        norm_type=config.choice("norm_type", base.norm_type, ("layer_norm", "rms_norm")),
        qkv_bias=config.boolean("qkv_bias", base.qkv_bias),
        qk_normalization=config.boolean("qk_normalization", base.qk_normalization),
        hidden_act=config.choice("hidden_act", base.hidden_act, ("gelu", "relu")),
    )
    if vision.hidden_size % vision.num_heads:
        config.fail("hidden_size", f"{vision.hidden_size} does not split into {vision.num_heads} heads")
    if vision.grid < 2 or vision.grid % 2:
        config.fail(
            "image_size", f"gives a grid of {vision.grid}x{vision.grid} patches; pixel shuffle needs an even number"
        )
    return vision


def read_preprocessor(config: Settings, vision: VisionConfig, pad: bool) -> ImagePreprocess:
    """`preprocessor_config.json`; a size may be an integer or a mapping."""
    config.refuse(PREPROCESSOR_REFUSED)
    for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if not config.boolean(key, True):
            config.fail(key, "is false, which is not supported")
    if abs(config.number("rescale_factor", 1 / 255, low=0.0, high=1.0) - 1 / 255) > 1e-6:
        config.fail("rescale_factor", "must be 1/255")
    size, crop = _edge(config, "size", vision.image_size), _edge(config, "crop_size", vision.image_size)
    if crop != vision.image_size:
        config.fail("crop_size", f"{crop} must be the vision encoder's image_size {vision.image_size}")
    if size < crop:
        config.fail("size", f"{size} is smaller than crop_size {crop}")
    mean = config.vector("image_mean", 3, (0.485, 0.456, 0.406))
    std = config.vector("image_std", 3, (0.229, 0.224, 0.225))
    if min(mean) < 0 or max(mean) > 1:
        config.fail("image_mean", f"must lie between 0 and 1, not {show(mean)}")
    if min(std) < 1e-6 or max(std) > 1e6:
        config.fail("image_std", f"must be positive, not {show(std)}")
    return ImagePreprocess(size, crop, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), pad)


def _edge(config: Settings, key: str, default: int) -> int:
    if not isinstance(config.data.get(key), Mapping):
        return config.integer(key, default, high=MAX_EDGE)
    sizes = config.section(key)
    if "shortest_edge" in sizes:
        return sizes.integer("shortest_edge", high=MAX_EDGE)
    height = sizes.integer("height", high=MAX_EDGE)
    if sizes.integer("width", height, high=MAX_EDGE) != height:
        sizes.fail("width", f"must be height {height}")
    return height


def read_tiling(config: Settings, vision: VisionConfig) -> Tiling:
    """Tile counts where the config names them (the serving layout and ours do), else the demo's 1 to 12."""
    most = config.integer("max_dynamic_patch", 12, high=MAX_TILES)
    least = config.integer("min_dynamic_patch", 1, high=MAX_TILES)
    if least > most:
        config.fail("min_dynamic_patch", f"{least} is more than max_dynamic_patch {most}")
    if not config.boolean("dynamic_image_size", True):
        least = most = 1
    return Tiling(vision.image_size, least, most, config.boolean("use_thumbnail", True))


def read_train_yaml(train: Settings, config: Settings) -> AudioConfig:
    """`train.yaml` of the audio folder; dashes and underscores are the same (spec section 1.3)."""
    encoder, base = train.section("encoder_conf"), AudioConfig()
    encoder.section("overview_conf").choice(
        "encoder-layer-config", "subsampling-transformer", ("subsampling-transformer",)
    )
    para = encoder.section("para_conf")
    para.section("subsampling").refuse({"subsampling-rate": (4,)})
    raw = para.section("transformer")
    keys = Settings(
        {k.replace("_", "-").removeprefix("transformer-"): v for k, v in raw.data.items()}, raw.where,
        raw.prefix + "transformer-",
    )  # fmt: skip
    # The reference's own default is abs-enc, so a missing key is refused too.
    keys.choice("pos-enc-class", "abs-enc", ("rel-enc",))
    keys.choice("positionwise-layer-type", "linear", ("linear",))
    keys.choice("input-layer", "linear", ("linear",))
    model = train.section("model_conf")
    model.choice("adpter_type", "subsampling", ("subsampling",))
    model.refuse({"add_audio_bos_eos": ()})
    prompts = config.integer("audio_prompt_num", 0, low=0, high=4096)
    audio = AudioConfig(
        input_dim=train.integer("input_dim", 80, low=7, high=1024),
        dim=keys.integer("attention-dim", base.dim, high=MAX_SIZE),
        num_heads=keys.integer("attention-heads", base.num_heads, high=MAX_HEADS),
        linear_units=keys.integer("linear-units", base.linear_units),
        num_layers=keys.integer("num-blocks", base.num_layers, high=MAX_LAYERS),
        normalize_before=keys.boolean("normalize-before", True),
        concat_after=keys.boolean("concat-after", False),
        chunk_size=keys.integer("chunk-size", -1, low=-1),
        left_chunks=keys.integer("left-chunks", -1, low=-1),
        dynamic_chunks=keys.boolean("dynamic-chunks", True),
        positions_in_input=keys.boolean("positions-in-input", False),
        adapter_kernel=model.integer("kernel_size", 5, high=99),
        adapter_activation=model.choice("activation_func", "gelu", ("gelu", "relu")),
        adapter_norm=model.choice("norm", "layer", ("layer", "batch")),
        prompt_tokens=prompts if config.boolean("audio_prompt_finetune", False) else 0,
    )
    _check_audio(audio, keys, "attention-dim")
    return audio


def _serving_audio(config: Settings) -> AudioConfig:
    audio = config.section("audio_config")
    audio.refuse({"hidden_act": ("relu",), "layer_norm_eps": (1e-5,), "quantization_config": ()})
    if not audio.boolean("use_relative_pe", True):
        audio.fail("use_relative_pe", "is false, which is not supported")
    read = AudioConfig(
        input_dim=audio.integer("input_dim", 80, low=7, high=1024),
        dim=audio.integer("hidden_size", high=MAX_SIZE),
        num_heads=audio.integer("num_attention_heads", high=MAX_HEADS),
        linear_units=audio.integer("intermediate_size"),
        num_layers=audio.integer("num_hidden_layers", high=MAX_LAYERS),
        normalize_before=audio.boolean("normalize_before", True),
        concat_after=audio.boolean("concat_after", False),
        dynamic_chunks=False,
        adapter_kernel=config.integer("audio_projector_kernel_size", 5, high=99),
        adapter_activation=config.choice("audio_projector_hidden_act", "gelu", ("gelu", "relu")),
        max_frames=audio.integer("max_position_embeddings", 5000, low=2),
    )
    _check_audio(read, audio, "hidden_size")
    return read


def _check_audio(audio: AudioConfig, source: Settings, key: str) -> None:
    if audio.dim % audio.num_heads or audio.dim % 2:
        source.fail(key, f"{audio.dim} must be even and split into {audio.num_heads} heads")


def read_generation(generation: Settings | None, config: Settings) -> GenerationConfig:
    """Stop ids and penalties; without `generation_config.json` the stop id comes from config.json."""
    source = Settings({}, config.where) if generation is None else generation
    source.refuse(GENERATION_REFUSED)
    pad = source if "pad_token_id" in source else config
    return GenerationConfig(
        eos_ids=_ids(source if "eos_token_id" in source.data else config, "eos_token_id"),
        pad_id=pad.integer("pad_token_id", low=-1, high=MAX_ID) if "pad_token_id" in pad else None,
        repetition_penalty=source.number("repetition_penalty", 1.0, low=0.01, high=100.0),
    )


def _ids(source: Settings, key: str) -> tuple[int, ...]:
    value = source.data.get(key)
    ids = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i <= MAX_ID for i in ids):
        source.fail(key, f"must be a token id or a list of token ids, not {show(value)}")
    return tuple(ids)


def _filterbank_of_train_yaml(train: Settings, audio: AudioConfig) -> FilterbankConfig:
    data = train.section("dataset_conf")
    return _filterbank(data.section("fbank_conf"), data.section("resample_conf"), "resample_rate", audio)


def _filterbank(bank: Settings, rate: Settings, rate_key: str, audio: AudioConfig) -> FilterbankConfig:
    bins = bank.integer("num_mel_bins", 80, high=1024)
    if bins != audio.input_dim:
        bank.fail("num_mel_bins", f"{bins} must be the audio encoder's input_dim {audio.input_dim}")
    return FilterbankConfig(
        sample_rate=rate.integer(rate_key, 16000, low=8000, high=192_000),
        num_mel_bins=bins,
        frame_length=bank.number("frame_length", 25.0, low=1.0, high=1000.0),
        frame_shift=bank.number("frame_shift", 10.0, low=1.0, high=1000.0),
    )


def _projector_layers(config: Settings) -> int:
    kind = config.text("mm_projector_type", "mlp2x_gelu")
    if kind == "linear":
        return 1
    found = re.fullmatch(r"mlp([1-9][0-9]?)x_gelu", kind)
    if found is None:
        config.fail("mm_projector_type", f"{show(kind)} is not supported", fix="use mlp2x_gelu")
    return int(found[1])


def _max_length(config: Settings) -> int | None:
    """`tokenizer_model_max_length`; tokenizers without a limit say 1e30."""
    value = config.data.get("tokenizer_model_max_length")
    if value is None or (is_finite(value) and isinstance(value, (int, float)) and value > MAX_POSITIONS):
        return None
    return config.integer("tokenizer_model_max_length", high=MAX_POSITIONS)


def _dtype(config: Settings) -> str:
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    name = config.text(key, "float32").removeprefix("torch.")
    if name not in DTYPES:
        config.fail(key, f"{show(name)} is not supported", fix="use float32, float16 or bfloat16")
    return DTYPES[name]
