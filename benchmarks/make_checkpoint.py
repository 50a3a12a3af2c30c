"""Write a random checkpoint at the released sizes, without ever holding it in memory.

    python benchmarks/make_checkpoint.py OUT --tokenizer FOLDER [--quantize int4]

Speed does not depend on the values of the weights, so this folder (16.6 GB in bfloat16, 6.5 GB in int4) is the
workload of every benchmark at real size. Shapes come from the engine's own modules on the meta device, so they cannot
drift apart. The tokenizer is any Qwen2.5 one; without `--tokenizer` a plain byte-level one with the same ids is made
up.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from vita.checkpoint.names import checkpoint_name
from vita.checkpoint.safetensors import header
from vita.config import AudioConfig, DecoderConfig, VisionConfig, VitaConfig
from vita.model.vita import VitaModel
from vita.options import SCHEMES, Quantize
from vita.quant.scheme import STORED

STORED_VOCAB, USED_VOCAB = 152064, 151665
SHARD_BYTES = 5 << 30
BLOCK = 16 << 20  # random values made once and laid over the tensors at shifting offsets

RELEASED = VitaConfig(
    decoder=DecoderConfig(3584, 18944, 28, 28, 4, STORED_VOCAB),
    vision=VisionConfig(1024, 4096, 24, 16, 448, 14, 1e-6, "layer_norm", True, False, "gelu"),
    audio=AudioConfig(80, 1024, 16, 4096, 24, dynamic_chunks=False),
)


Entry = tuple[str, tuple[int, ...], torch.dtype]


def tensors(config: VitaConfig, quantize: Quantize | None) -> Iterator[Entry]:
    """Checkpoint name, shape and stored dtype of every tensor."""
    for part, module in VitaModel.on_meta(config, config.decoder.vocab_size, quantize).parts():
        for ours, value in module.state_dict().items():
            yield (
                checkpoint_name(part, ours),
                tuple(value.shape),
                value.dtype if value.dtype in STORED else torch.bfloat16,
            )


def fill(name: str, count: int, stored: torch.dtype, noise: torch.Tensor, offset: int) -> bytes:
    """Bytes of one tensor: ones for norms, small noise for the rest; whole numbers at random, with a small scale."""
    if stored != torch.bfloat16:
        return fill("whole.values", -(-count // 2), torch.bfloat16, noise, offset)[:count]
    if name.endswith(".scale"):
        return bytes(torch.full((count,), 0.005, dtype=torch.bfloat16).view(torch.uint8).numpy())
    if ("norm" in name.rsplit(".", 2)[-2] and name.endswith("weight")) or name.endswith(("ls1", "ls2", "istd")):
        return bytes(torch.ones(count, dtype=torch.bfloat16).view(torch.uint8).numpy())
    start = offset % (BLOCK // 2)
    piece = noise[start : start + count] if count <= BLOCK - start else noise.roll(start)
    repeats = -(-count // piece.numel())
    return bytes(piece.repeat(repeats)[:count].view(torch.uint8).numpy())


def write_shard(file: Path, shard: list[Entry], noise: torch.Tensor) -> None:
    """One safetensors file, tensor by tensor."""
    with file.open("wb") as out:
        out.write(header((name, stored, shape) for name, shape, stored in shard))
        for index, (name, shape, stored) in enumerate(shard):
            count = int(torch.Size(shape).numel())
            for start in range(0, count, 256 << 20):
                out.write(fill(name, min(count - start, 256 << 20), stored, noise, index * 7919 + start))


def write_weights(out: Path, config: VitaConfig, quantize: Quantize | None) -> None:
    """All shards and their index."""
    noise = (torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
    shards: list[list[Entry]] = [[]]
    size = 0
    for name, shape, stored in tensors(config, quantize):
        bytes_ = stored.itemsize * int(torch.Size(shape).numel())
        if size and size + bytes_ > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((name, shape, stored))
        size += bytes_
    weight_map = {}
    for index, shard in enumerate(shards, start=1):
        file = out / f"model-{index:05}-of-{len(shards):05}.safetensors"
        write_shard(file, shard, noise)
        weight_map.update({name: file.name for name, *_ in shard})
        print(f"{file.name}: {file.stat().st_size / 1e9:.2f} GB", flush=True)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_configs(out: Path, config: VitaConfig, quantize: Quantize | None) -> None:
    """config.json, the vision and audio folders, as the released checkpoint lays them out."""
    d, v, a = config.decoder, config.vision, config.audio
    vision, audio = out / "InternViT-300M-448px", out / "audio-encoder"
    vision.mkdir(exist_ok=True)
    audio.mkdir(exist_ok=True)
    main = {
        "architectures": ["VITAQwen2ForCausalLM"], "model_type": "vita-Qwen2", "torch_dtype": "bfloat16",
        "hidden_size": d.hidden_size, "intermediate_size": d.intermediate_size, "num_hidden_layers": d.num_layers,
        "num_attention_heads": d.num_heads, "num_key_value_heads": d.num_kv_heads, "vocab_size": d.vocab_size,
        "rms_norm_eps": d.rms_norm_eps, "rope_theta": d.rope_theta, "max_position_embeddings": 32768,
        "tie_word_embeddings": False, "hidden_act": "silu", "use_sliding_window": False, "eos_token_id": 151645,
        "mm_vision_tower": vision.name, "mm_audio_encoder": audio.name, "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 4 * v.hidden_size, "image_aspect_ratio": "square", "use_s2": False,
        "tokenizer_model_max_length": 9800,
    }  # fmt: skip
    if quantize:
        main["vita_quantization"] = quantize
    tower = {
        "hidden_size": v.hidden_size, "num_hidden_layers": v.num_layers, "num_attention_heads": v.num_heads,
        "intermediate_size": v.intermediate_size, "image_size": v.image_size, "patch_size": v.patch_size,
        "layer_norm_eps": v.layer_norm_eps, "norm_type": v.norm_type, "qkv_bias": v.qkv_bias,
        "qk_normalization": v.qk_normalization, "hidden_act": v.hidden_act,
    }  # fmt: skip
    pixels = {"size": 448, "crop_size": 448, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    train = f"""input_dim: 80
encoder_conf:
  para_conf:
    transformer:
      transformer-attention-dim: {a.dim}
      transformer-attention-heads: {a.num_heads}
      transformer-linear-units: {a.linear_units}
      transformer-num-blocks: {a.num_layers}
      transformer-pos-enc-class: rel-enc
      transformer-dynamic-chunks: false
model_conf: {{enc_out_dim: {a.dim}, llm_embed_dim: {d.hidden_size}, kernel_size: 5, activation_func: gelu, norm: layer}}
"""
    (out / "config.json").write_text(json.dumps(main, indent=1))
    (vision / "config.json").write_text(json.dumps(tower, indent=1))
    (vision / "preprocessor_config.json").write_text(json.dumps(pixels, indent=1))
    (audio / "train.yaml").write_text(train)


def write_tokenizer(out: Path, source: Path | None) -> None:
    """A copy of a Qwen2.5 tokenizer, or a byte-level one with the same ids for the special tokens."""
    if source is not None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(source / name, out / name)
        return
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(letters)} | {f"<unused {i}>": i for i in range(256, USED_VOCAB - 22)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<extra {i}>" for i in range(19)]
    backend.add_special_tokens([AddedToken(n, special=True) for n in names])
    backend.save(str(out / "tokenizer.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="folder of a Qwen2.5 tokenizer.json")
    parser.add_argument("--quantize", choices=SCHEMES, help="as `vita convert` would store it, values at random")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_configs(args.out, RELEASED, args.quantize)
    write_tokenizer(args.out, args.tokenizer)
    write_weights(args.out, RELEASED, args.quantize)


if __name__ == "__main__":
    main()
