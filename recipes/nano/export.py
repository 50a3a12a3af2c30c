"""A run's weights as a checkpoint folder in the released layout.

`python -m recipes.nano.export runs/first runs/first/export`. Owns the folder's files; the engine reads them like any
other checkpoint's and knows nothing of where they come from. Does not know how the weights were trained.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from recipes.nano.checkpoint import hears, load_weights, read_run, save_heads
from recipes.nano.model import PARTS, Learner, Sizes, sizes
from recipes.nano.tiles import MAX_TILES
from vita.checkpoint.names import checkpoint_name
from vita.config import AudioConfig, DecoderConfig, ImagePreprocess, VisionConfig
from vita.prompt.tokenizer import END_OF_TEXT, Tokenizer

VISION_FOLDER = "InternViT-embedded-224px"
AUDIO_FOLDER = "audio-encoder-embedded"
CONTEXT = 4096
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def export(model: Learner, tokenizer: Path, out: Path, untrained: tuple[str, ...] = ("audio",)) -> None:
    """Writes the whole folder.

    Args:
        model: trained weights; the dense heads stay behind.
        tokenizer: folder of the tokenizer's files.
        out: made if need be.
        untrained: modalities whose weights are there but random; the engine refuses them.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, out / name)
    ids = Tokenizer.load(tokenizer)
    stop, pad = ids.im_end, ids.token_id(END_OF_TEXT)
    _json(out / "config.json", main_config(model.size, stop, pad, untrained))
    _json(out / "generation_config.json", {"bos_token_id": pad, "eos_token_id": [stop, pad], "pad_token_id": pad})
    _json(out / VISION_FOLDER / "config.json", vision_config(model.size.vision))
    _json(out / VISION_FOLDER / "preprocessor_config.json", preprocessor_config(model.size.vision))
    (out / AUDIO_FOLDER).mkdir(exist_ok=True)
    train = train_yaml(model.size.audio, model.size.decoder)
    (out / AUDIO_FOLDER / "train.yaml").write_text(yaml.safe_dump(train, sort_keys=False), encoding="utf-8")
    _json(out / AUDIO_FOLDER / "global_cmvn", statistics(model))
    save_file(tensors(model), out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # the writer leaves it to its owner alone


def tensors(model: Learner) -> dict[str, Tensor]:
    """Every tensor by its released name, in bfloat16; the audio statistics in float32."""
    named: dict[str, Tensor] = {}
    for part in PARTS:
        for ours, value in getattr(model, part).state_dict().items():
            dtype = torch.float32 if ours.startswith("cmvn_") else torch.bfloat16
            named[checkpoint_name(part, ours)] = value.detach().cpu().to(dtype).contiguous().clone()
    return named


def main_config(size: Sizes, stop: int, pad: int, untrained: tuple[str, ...]) -> dict[str, Any]:
    """`config.json` with the keys of spec section 1.1, and two of our own: the tiles it was trained on, and what is
    untrained."""
    decoder = size.decoder
    return {
        "architectures": ["VITAQwen2ForCausalLM"], "model_type": "vita-Qwen2", "attention_dropout": 0.0,
        "audio_prompt_finetune": False, "audio_prompt_num": None, "audio_state_predictor_tuning": False,
        "bos_token_id": pad, "eos_token_id": stop, "continuous_training": False, "freeze_audio_encoder": True,
        "freeze_audio_encoder_adapter": False, "freeze_mm_mlp_adapter": False, "hidden_act": "silu",
        "hidden_size": decoder.hidden_size, "image_aspect_ratio": "square", "initializer_range": 0.02,
        "intermediate_size": decoder.intermediate_size, "max_dynamic_patch": MAX_TILES,
        "max_position_embeddings": CONTEXT, "max_window_layers": decoder.num_layers,
        "mm_audio_encoder": AUDIO_FOLDER, "mm_hidden_size": 4 * size.vision.hidden_size, "mm_projector_lr": None,
        "mm_projector_type": "mlp2x_gelu", "mm_vision_tower": VISION_FOLDER,
        "num_attention_heads": decoder.num_heads, "num_hidden_layers": decoder.num_layers,
        "num_key_value_heads": decoder.num_kv_heads, "rms_norm_eps": decoder.rms_norm_eps,
        "rope_theta": decoder.rope_theta, "sliding_window": None, "tie_word_embeddings": False,
        "tokenizer_model_max_length": CONTEXT, "tokenizer_padding_side": "right", "torch_dtype": "bfloat16",
        "transformers_version": "4.44.2", "tune_audio_mlp_adapter": False, "tune_mm_mlp_adapter": False,
        "unfreeze_vision_tower": False, "use_cache": True, "use_mm_proj": True, "use_s2": False,
        "use_sliding_window": False, "vita_untrained": list(untrained), "vocab_size": decoder.vocab_size,
    }  # fmt: skip


def vision_config(vision: VisionConfig) -> dict[str, Any]:
    """The vision folder's `config.json` (spec section 4)."""
    return {
        "architectures": ["InternVisionModel"], "attention_dropout": 0.0, "drop_path_rate": 0.0, "dropout": 0.0,
        "hidden_act": vision.hidden_act, "hidden_size": vision.hidden_size, "image_size": vision.image_size,
        "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": vision.intermediate_size,
        "layer_norm_eps": vision.layer_norm_eps, "model_type": "intern_vit_6b", "norm_type": vision.norm_type,
        "num_attention_heads": vision.num_heads, "num_channels": 3, "num_hidden_layers": vision.num_layers,
        "patch_size": vision.patch_size, "qk_normalization": vision.qk_normalization, "qkv_bias": vision.qkv_bias,
        "torch_dtype": "bfloat16", "transformers_version": "4.37.2", "use_flash_attn": False,
    }  # fmt: skip


def preprocessor_config(vision: VisionConfig) -> dict[str, Any]:
    """The vision folder's `preprocessor_config.json` (spec section 3.3)."""
    constants = ImagePreprocess()
    return {
        "crop_size": vision.image_size, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": list(constants.mean),
        "image_std": list(constants.std), "resample": 3, "size": vision.image_size,
    }  # fmt: skip


def train_yaml(audio: AudioConfig, decoder: DecoderConfig) -> dict[str, Any]:
    """The audio folder's `train.yaml` (spec section 1.3)."""
    return {
        "input_dim": audio.input_dim,
        "is_json_cmvn": True,
        "dataset_conf": {
            "fbank_conf": {"num_mel_bins": audio.input_dim, "frame_length": 25, "frame_shift": 10, "dither": 0.0},
            "resample_conf": {"resample_rate": 16000},
        },
        "encoder_conf": {
            "overview_conf": {
                "encoder-input-dim": audio.input_dim, "encoder-output-dim": audio.dim,
                "encoder-layer-config": "subsampling-transformer",
            },
            "para_conf": {
                "subsampling": {
                    "subsampling-rate": 4, "subsampling-input-dim": audio.input_dim,
                    "subsampling-output-dim": audio.dim, "subsampling-dropout-rate": 0.0,
                },
                "transformer": {
                    "transformer-input-dim": audio.dim, "transformer-output-dim": audio.dim,
                    "transformer-attention-dim": audio.dim, "transformer-attention-heads": audio.num_heads,
                    "transformer-linear-units": audio.linear_units, "transformer-num-blocks": audio.num_layers,
                    "transformer-dropout-rate": 0.0, "transformer-attention-dropout-rate": 0.0,
                    "transformer-positional-dropout-rate": 0.0, "transformer-input-layer": "linear",
                    "transformer-pos-enc-class": "rel-enc", "transformer-normalize-before": audio.normalize_before,
                    "transformer-concat-after": audio.concat_after, "transformer-positionwise-layer-type": "linear",
                    "transformer-chunk_size": audio.chunk_size, "transformer-left_chunks": audio.left_chunks,
                    "transformer-dynamic-chunks": audio.dynamic_chunks,
                    "transformer-positions-in-input": audio.positions_in_input,
                },
            },
        },
        "model_conf": {
            "llm_path": "unused", "enc_out_dim": audio.dim, "llm_embed_dim": decoder.hidden_size,
            "kernel_size": audio.adapter_kernel, "adpter_type": "subsampling",
            "activation_func": audio.adapter_activation, "norm": audio.adapter_norm,
        },
    }  # fmt: skip


def statistics(model: Learner) -> dict[str, Any]:
    """`global_cmvn`: sums from which the mean and deviation in the weights follow."""
    mean, istd = model.audio.cmvn_mean.double(), model.audio.cmvn_istd.double()
    return {"mean_stat": mean.tolist(), "var_stat": (istd**-2 + mean**2).tolist(), "frame_num": 1}


def load_run(run: Path) -> tuple[Learner, Path]:
    """The model of a run's state and the folder of its tokenizer."""
    state = read_run(run)
    tokenizer = run / "tokenizer"
    weights = state["model"]
    words = len(weights["words.bias"]) if "words.bias" in weights else None  # the recipe may have other words by now
    model = Learner(sizes(state.get("preset", "small"), Tokenizer.load(tokenizer).size), words)
    load_weights(model, weights)
    return model, tokenizer


def _json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--heads", type=Path, help="also keep the heads that a further run starts from")
    options = parser.parse_args()
    torch.manual_seed(0)  # of what no run has trained
    model, tokenizer = load_run(options.run)
    export(model, tokenizer, options.out, () if hears(model.state_dict()) else ("audio",))
    if options.heads:
        save_heads(model, options.heads)
    print(f"{sum(f.stat().st_size for f in options.out.rglob('*') if f.is_file()) / 1e6:.1f} MB in {options.out}")


if __name__ == "__main__":
    main()
