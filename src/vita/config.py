"""Configuration of every part of the model, as dataclasses.

`checkpoint.read_config` reads them from a checkpoint's files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class DecoderConfig:
    """The Qwen2 decoder (spec section 8), and the speech decoder (section 9.2), which has its biases elsewhere."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int  # as stored; cut to the tokenizer's length while loading
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_positions: int = 32768
    tie_word_embeddings: bool = False
    attention_bias: bool = True  # of q, k and v
    head_bias: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class VisionConfig:
    """InternViT (spec section 4). The defaults are what a missing key takes: a 6B model's, not the 300M's."""

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
        """Patches along one side of a tile, G."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_tile(self) -> int:
        """Decoder rows of one tile, after pixel shuffle."""
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
    positions_in_input: bool = False  # our extension: add the position table to the input; not in the release
    adapter_kernel: int = 5
    adapter_activation: str = "gelu"
    adapter_norm: str = "layer"
    prompt_tokens: int = 0  # learned rows in front of the adapter's output
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
    """Kaldi filterbank (spec section 5); lengths in milliseconds."""

    sample_rate: int = 16000
    num_mel_bins: int = 80
    frame_length: float = 25.0
    frame_shift: float = 10.0
    dither: float = 0.0  # never read from a checkpoint: its 1.0 would make answers differ from run to run


@dataclass(frozen=True)
class GenerationConfig:
    """What is used of `generation_config.json`."""

    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class VitaConfig:
    """All parts of one model."""

    decoder: DecoderConfig
    vision: VisionConfig
    audio: AudioConfig
    image: ImagePreprocess = field(default_factory=ImagePreprocess)
    tiling: Tiling = field(default_factory=Tiling)
    filterbank: FilterbankConfig = field(default_factory=FilterbankConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    projector_layers: int = 2
    max_length: int | None = None  # tokenizer_model_max_length
    dtype: str = "float32"  # torch_dtype of the checkpoint
    layout: Literal["main", "serving"] = "main"

    @property
    def context(self) -> int:
        """Maximal length of a conversation with its answer, in positions."""
        limits = [self.decoder.max_positions] + ([self.max_length] if self.max_length else [])
        return min(limits)
