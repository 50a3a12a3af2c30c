"""The configuration of a checkpoint as dataclasses, read from parsed config files.

Reads every known layout of `config.json`, `preprocessor_config.json`, `train.yaml` and `generation_config.json` (spec
sections 1, 3.3, 4 and 10). `checkpoint.open` finds and parses the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vita.errors import CheckpointError

Json = Mapping[str, Any]
KNOWN_MODEL_TYPES = ("vita-Qwen2", "vita-qwen2")
SERVING_ARCHITECTURE = "Qwen2ForConditionalGeneration"


@dataclass(frozen=True)
class DecoderConfig:
    """The Qwen2 decoder (spec section 8)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int  # as stored; loading cuts it to the tokenizer's length
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_positions: int = 32768
    tie_word_embeddings: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class VisionConfig:
    """InternViT (spec section 4). A missing key takes these defaults: the 6B model's, not the 300M model's."""

    hidden_size: int = 3200
    intermediate_size: int = 12800
    num_layers: int = 48
    num_heads: int = 25
    image_size: int = 224
    patch_size: int = 14
    layer_norm_eps: float = 1e-6
    norm_type: str = "rms_norm"
    qkv_bias: bool = False
    qk_normalization: bool = True
    hidden_act: str = "gelu"

    @property
    def grid(self) -> int:
        """Patches along one side, G."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_tile(self) -> int:
        return (self.grid // 2) ** 2


@dataclass(frozen=True)
class AudioConfig:
    """Whale encoder and adapter (spec section 6)."""

    input_dim: int = 80
    dim: int = 256
    num_heads: int = 4
    linear_units: int = 1024
    num_layers: int = 6
    normalize_before: bool = True
    concat_after: bool = False
    chunk_size: int = -1
    left_chunks: int = -1
    dynamic_chunks: bool = True
    positions_in_input: bool = False  # an extension of this project: add positions to the encoder's input
    adapter_kernel: int = 5
    adapter_activation: str = "gelu"
    adapter_norm: str = "layer"
    prompt_tokens: int = 0  # learned embeddings before the adapter's output
    max_frames: int = 5000  # rows of the position table


@dataclass(frozen=True)
class ImagePreprocess:
    """Resize, crop and normalise (spec section 3.3)."""

    size: int = 448
    crop: int = 448
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    pad: bool = False  # image_aspect_ratio == "pad"


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles (spec section 3.2)."""

    tile: int = 448
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True


@dataclass(frozen=True)
class FilterbankConfig:
    """Kaldi filterbank (spec section 5): rate in Hz, lengths in milliseconds."""

    sample_rate: int = 16000
    num_mel_bins: int = 80
    frame_length: float = 25.0
    frame_shift: float = 10.0
    dither: float = 0.0  # the checkpoint's 1.0 makes answers random, so it is opt-in


@dataclass(frozen=True)
class GenerationConfig:
    """The keys of `generation_config.json` that the engine uses."""

    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class VitaConfig:
    """The configuration of a model."""

    decoder: DecoderConfig
    vision: VisionConfig
    audio: AudioConfig
    image: ImagePreprocess = field(default_factory=ImagePreprocess)
    tiling: Tiling = field(default_factory=Tiling)
    filterbank: FilterbankConfig = field(default_factory=FilterbankConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    projector_layers: int = 2
    max_length: int | None = None  # tokenizer_model_max_length
    dtype: str = "float32"  # the checkpoint's `torch_dtype`
    layout: Literal["main", "serving"] = "main"

    @property
    def context(self) -> int:
        """Maximum number of positions of a conversation with its answer."""
        limits = [self.decoder.max_positions] + ([self.max_length] if self.max_length else [])
        return min(limits)


def is_serving_layout(config: Json) -> bool:
    """Whether this config.json has the nested serving layout (spec section 10)."""
    return "text_config" in config and "vision_config" in config


def check_model_type(config: Json, where: object) -> None:
    """Check that a config.json is of this model.

    Raises:
        CheckpointError: it is of another model type.
    """
    if is_serving_layout(config) or config.get("model_type") in KNOWN_MODEL_TYPES:
        return
    found = config.get("model_type") or (config.get("architectures") or ["nothing"])[0]
    raise CheckpointError(
        f"is the configuration of another model ({found!r}), not of VITA-1.5",
        where=where,
        fix="pass a folder whose config.json has model_type 'vita-Qwen2'",
    )


def read_main(
    config: Json, vision: Json, preprocessor: Json, train: Json, generation: Json | None, where: object
) -> VitaConfig:
    """Read the released layout: one flat config.json and two folders of configuration.

    Raises:
        CheckpointError: a key is missing or its value is not supported.
    """
    if config.get("use_s2"):
        raise CheckpointError("use_s2 is true, which is not supported", where=where)
    if config.get("use_sliding_window"):
        raise CheckpointError("use_sliding_window is true, which is not supported", where=where)
    vision_config = read_vision(vision.get("vision_config", vision), where)
    return VitaConfig(
        decoder=read_decoder(config, where),
        vision=vision_config,
        audio=read_train_yaml(train, config, where),
        image=read_preprocessor(preprocessor, vision_config, config.get("image_aspect_ratio") == "pad"),
        tiling=read_tiling(config, vision_config),
        filterbank=_filterbank_from_train(train),
        generation=read_generation(generation, config),
        projector_layers=_projector_layers(config.get("mm_projector_type", "mlp2x_gelu"), where),
        max_length=config.get("tokenizer_model_max_length"),
        dtype=_dtype_name(config.get("torch_dtype") or config.get("dtype")),
        layout="main",
    )


def read_serving(
    config: Json, preprocessor: Json, features: Json, generation: Json | None, where: object
) -> VitaConfig:
    """Read the serving layout: everything nested in one config.json (spec section 10).

    Raises:
        CheckpointError: a key is missing or its value is not supported.
    """
    text = config["text_config"]
    vision_config = read_vision(config["vision_config"], where)
    audio = config.get("audio_config", {})
    audio_config = AudioConfig(
        input_dim=audio.get("input_dim", 80),
        dim=_need(audio, "hidden_size", where),
        num_heads=_need(audio, "num_attention_heads", where),
        linear_units=_need(audio, "intermediate_size", where),
        num_layers=_need(audio, "num_hidden_layers", where),
        normalize_before=audio.get("normalize_before", True),
        concat_after=audio.get("concat_after", False),
        dynamic_chunks=False,
        adapter_kernel=config.get("audio_projector_kernel_size", 5),
        adapter_activation=config.get("audio_projector_hidden_act", "gelu"),
        max_frames=audio.get("max_position_embeddings", 5000),
    )
    return VitaConfig(
        decoder=read_decoder(text, where),
        vision=vision_config,
        audio=audio_config,
        image=read_preprocessor(preprocessor, vision_config, pad=False),
        tiling=read_tiling(config, vision_config),
        filterbank=FilterbankConfig(
            sample_rate=features.get("sampling_rate", 16000),
            num_mel_bins=features.get("num_mel_bins", 80),
            frame_length=features.get("frame_length", 25),
            frame_shift=features.get("frame_shift", 10),
        ),
        generation=read_generation(generation, text),
        max_length=config.get("tokenizer_model_max_length"),
        dtype=_dtype_name(config.get("torch_dtype") or text.get("torch_dtype")),
        layout="serving",
    )


def read_decoder(config: Json, where: object) -> DecoderConfig:
    """Read the decoder's keys, from the flat config.json or its `text_config`."""
    if config.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"hidden_act {config['hidden_act']!r} of the decoder is not supported", where=where)
    heads = _need(config, "num_attention_heads", where)
    groups = _need(config, "num_key_value_heads", where) if "num_key_value_heads" in config else heads
    if heads % groups:
        raise CheckpointError(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {groups}", where=where
        )
    return DecoderConfig(
        hidden_size=_need(config, "hidden_size", where),
        intermediate_size=_need(config, "intermediate_size", where),
        num_layers=_need(config, "num_hidden_layers", where),
        num_heads=heads,
        num_kv_heads=groups,
        vocab_size=_need(config, "vocab_size", where),
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=config.get("rope_theta", 1e6),
        max_positions=config.get("max_position_embeddings", 32768),
        tie_word_embeddings=config.get("tie_word_embeddings", False),
    )


def read_vision(config: Json, where: object) -> VisionConfig:
    """Read InternViT's keys; a missing one takes the 6B model's value (spec section 4)."""
    base = VisionConfig()
    vision = VisionConfig(
        hidden_size=config.get("hidden_size", base.hidden_size),
        intermediate_size=config.get("intermediate_size", base.intermediate_size),
        num_layers=config.get("num_hidden_layers", base.num_layers),
        num_heads=config.get("num_attention_heads", base.num_heads),
        image_size=config.get("image_size", base.image_size),
        patch_size=config.get("patch_size", base.patch_size),
        layer_norm_eps=config.get("layer_norm_eps", base.layer_norm_eps),
        norm_type=config.get("norm_type", base.norm_type),
        qkv_bias=config.get("qkv_bias", base.qkv_bias),
        qk_normalization=config.get("qk_normalization", base.qk_normalization),
        hidden_act=config.get("hidden_act", base.hidden_act),
    )
    if vision.grid % 2:
        raise CheckpointError(
            f"a grid of {vision.grid}x{vision.grid} patches cannot be pixel-shuffled, it must be even", where=where
        )
    return vision


def read_preprocessor(config: Json, vision: VisionConfig, pad: bool) -> ImagePreprocess:
    """Read `preprocessor_config.json`; a size may be an int or a dictionary."""
    return ImagePreprocess(
        size=_edge(config.get("size"), vision.image_size),
        crop=_edge(config.get("crop_size"), vision.image_size),
        mean=_triple(config.get("image_mean"), (0.485, 0.456, 0.406)),
        std=_triple(config.get("image_std"), (0.229, 0.224, 0.225)),
        pad=pad,
    )


def read_tiling(config: Json, vision: VisionConfig) -> Tiling:
    """Read the tile counts: default 1 to 12, as in the reference demo; the serving layout and this project set them."""
    return Tiling(
        tile=vision.image_size,
        min_tiles=config.get("min_dynamic_patch", 1),
        max_tiles=config.get("max_dynamic_patch", 12) if config.get("dynamic_image_size", True) else 1,
        thumbnail=config.get("use_thumbnail", True),
    )


def read_train_yaml(train: Json, config: Json, where: object) -> AudioConfig:
    """Read the audio folder's `train.yaml`; dashes and underscores in keys are the same (spec section 1.3)."""
    para = train.get("encoder_conf", {}).get("para_conf", {})
    keys = {k.replace("_", "-").removeprefix("transformer-"): v for k, v in para.get("transformer", {}).items()}
    model = train.get("model_conf", {})
    base = AudioConfig()
    if keys.get("pos-enc-class", "abs-enc") != "rel-enc":
        raise CheckpointError("only transformer-pos-enc-class rel-enc is supported", where=where)
    if keys.get("positionwise-layer-type", "linear") != "linear":
        raise CheckpointError("only transformer-positionwise-layer-type linear is supported", where=where)
    if keys.get("input-layer", "linear") != "linear":
        raise CheckpointError("only transformer-input-layer linear is supported", where=where)
    if model.get("adpter_type", "subsampling") != "subsampling":
        raise CheckpointError("only adpter_type subsampling is supported", where=where)
    return AudioConfig(
        input_dim=train.get("input_dim", 80),
        dim=keys.get("attention-dim", base.dim),
        num_heads=keys.get("attention-heads", base.num_heads),
        linear_units=keys.get("linear-units", base.linear_units),
        num_layers=keys.get("num-blocks", base.num_layers),
        normalize_before=keys.get("normalize-before", True),
        concat_after=keys.get("concat-after", False),
        chunk_size=keys.get("chunk-size", -1),
        left_chunks=keys.get("left-chunks", -1),
        dynamic_chunks=keys.get("dynamic-chunks", True),
        positions_in_input=keys.get("positions-in-input", False),
        adapter_kernel=model.get("kernel_size", 5),
        adapter_activation=model.get("activation_func", "gelu"),
        adapter_norm=model.get("norm", "layer"),
        prompt_tokens=(config.get("audio_prompt_num") or 0) if config.get("audio_prompt_finetune") else 0,
    )


def read_generation(generation: Json | None, config: Json) -> GenerationConfig:
    """Read stop ids and penalties; without `generation_config.json` the stop id comes from config.json."""
    source: Json = generation if generation is not None else {}
    eos = source.get("eos_token_id", config.get("eos_token_id"))
    ids = () if eos is None else tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos),)
    return GenerationConfig(
        eos_ids=ids,
        pad_id=source.get("pad_token_id", config.get("pad_token_id")),
        repetition_penalty=float(source.get("repetition_penalty") or 1.0),
    )


def _filterbank_from_train(train: Json) -> FilterbankConfig:
    data = train.get("dataset_conf", {})
    fbank = data.get("fbank_conf", {})
    return FilterbankConfig(
        sample_rate=data.get("resample_conf", {}).get("resample_rate", 16000),
        num_mel_bins=fbank.get("num_mel_bins", 80),
        frame_length=fbank.get("frame_length", 25),
        frame_shift=fbank.get("frame_shift", 10),
    )


def _projector_layers(kind: str, where: object) -> int:
    if kind == "linear":
        return 1
    if kind.startswith("mlp") and kind.endswith("x_gelu") and kind[3:-6].isdigit():
        return int(kind[3:-6])
    raise CheckpointError(f"mm_projector_type {kind!r} is not supported", where=where, fix="use mlp2x_gelu")


def _dtype_name(value: object) -> str:
    name = str(value or "float32").removeprefix("torch.")
    return name if name in ("float32", "float16", "bfloat16") else "float32"


def _need(config: Json, key: str, where: object) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise CheckpointError(f"needs a positive whole number under {key!r}", where=where)
    return value


def _edge(value: object, default: int) -> int:
    if isinstance(value, Mapping):
        value = value.get("shortest_edge", value.get("height"))
    return value if isinstance(value, int) else default


def _triple(value: object, default: tuple[float, float, float]) -> tuple[float, float, float]:
    if isinstance(value, (list, tuple)) and len(value) == 3:
        return (float(value[0]), float(value[1]), float(value[2]))
    return default
