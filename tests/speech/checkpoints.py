"""A tiny speech checkpoint with random weights, in the layout of the release; no reference numbers are needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vita.speech.checkpoint import SpeechModel, load_speech

CPU = torch.device("cpu")
ODIM, CODES = 20, 24
DECODER: dict[str, Any] = {
    "idim": 24, "odim": ODIM, "transformer_attention_dim": 24, "transformer_attention_heads": 3,
    "transformer_linear_units": 40, "transformer_num_blocks": 4, "transformer_dropout_rate": 0.0,
    "encoder_output_dim": 24, "encoder_drop_rate": 0.0, "kv_cache_prefix_finetune": 0,
    "encoder_pre_norm_type": "ln", "encoder_criterion": "ce", "encoder_upsample_rate": 1,
}  # fmt: skip
CODEC: dict[str, Any] = {
    "resblock": "1", "upsample_rates": [6, 5, 5, 4], "upsample_kernel_sizes": [12, 11, 9, 8],
    "upsample_initial_channel": 256, "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3, 5], [1, 2, 3]],
    "n_code_groups": 1, "n_codes": CODES, "residul_layer": 1, "global_code_num": 4, "codebook_loss_lambda": 1.0,
    "commitment_loss_lambda": 0.25, "global_tokens": [3, 1, 0, 23],
}  # fmt: skip


def write_speech(folder: Path, *, decoder: dict[str, Any] | None = None, codec: dict[str, Any] | None = None) -> Path:
    """Write a checkpoint; the arguments change values of the two configurations."""
    sizes, codec_sizes = DECODER | (decoder or {}), CODEC | (codec or {})
    (folder / "decoder").mkdir(parents=True, exist_ok=True)
    (folder / "codec").mkdir(exist_ok=True)
    (folder / "decoder" / "model.json").write_text(json.dumps([sizes["idim"], sizes["odim"], sizes]))
    (folder / "codec" / "model.json").write_text(json.dumps(codec_sizes))
    torch.save({"model": decoder_tensors(sizes)}, folder / "decoder" / "final.pt")
    torch.save(codec_tensors(codec_sizes), folder / "codec" / "final.pt")
    return folder


def decoder_tensors(sizes: dict[str, Any]) -> dict[str, Tensor]:
    """float16 tensors of the speech decoder, by the release's names."""
    draw = torch.Generator().manual_seed(5)
    size, units, vocab = sizes["idim"], sizes["transformer_linear_units"], sizes["odim"] + 4

    def random(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=draw) * shape[-1] ** -0.5 * 2).half()

    out = {"embedding.weight": (random(vocab, size) * 3).half(), "norm.weight": torch.ones(size).half()}
    out |= {"out_fnn.weight": random(vocab, size), "out_fnn.bias": random(vocab)}
    layers = sizes["transformer_num_blocks"]
    for stem in [f"layers_pre_nn.{n}" for n in range(layers // 2)] + [f"layers.{n}" for n in range(layers)]:
        for name in "qkvo":
            out[f"{stem}.self_attn.{name}_proj.weight"] = random(size, size)
        out |= {f"{stem}.mlp.{name}_proj.weight": random(units, size) for name in ("gate", "up")}
        out[f"{stem}.mlp.down_proj.weight"] = random(size, units)
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"{stem}.{name}.weight"] = (1 + 0.1 * torch.randn(size, generator=draw)).half()
    return out


def codec_tensors(sizes: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """float16 tensors of the codec, by the release's names."""
    draw = torch.Generator().manual_seed(6)
    generator: dict[str, Tensor] = {}

    def conv(name: str, first: int, second: int, kernel: int, outputs: int) -> None:
        generator[f"{name}.weight_v"] = torch.randn(first, second, kernel, generator=draw).half()
        generator[f"{name}.weight_g"] = (0.5 + torch.rand(first, 1, 1, generator=draw)).half()
        generator[f"{name}.bias"] = (0.1 * torch.randn(outputs, generator=draw)).half()

    channels, blocks = sizes["upsample_initial_channel"], len(sizes["resblock_kernel_sizes"])
    conv("conv_pre", channels, 512, 7, channels)
    for stage, kernel in enumerate(sizes["upsample_kernel_sizes"]):
        conv(f"ups.{stage}", channels, channels // 2, kernel, channels // 2)
        channels //= 2
        for k, size in enumerate(sizes["resblock_kernel_sizes"]):
            name = f"resblocks.{stage * blocks + k}"
            for chain in ("convs1", "convs2") if sizes["resblock"] == "1" else ("convs",):
                for n in range(3 if sizes["resblock"] == "1" else 2):
                    conv(f"{name}.{chain}.{n}", channels, channels, size, channels)
    conv("conv_post", 1, channels, 7, 1)
    count = sizes["global_code_num"]
    codes = {"quantizer_modules.0.embedding.weight": torch.randn(sizes["n_codes"], 512, generator=draw).half()}
    for n in range(count):
        table = torch.randn(sizes["n_codes"], 128 // count, generator=draw).half()
        codes[f"quantizer_modules_globaltokens.{n}.embedding.weight"] = table
    return {"generator": generator, "quantizer": codes, "encoder": {"unused.weight": torch.zeros(2)}}


def tiny_speech(folder: Path, **changes: dict[str, Any]) -> SpeechModel:
    """The tiny checkpoint, loaded in float32 on the CPU."""
    return load_speech(write_speech(folder, **changes), device=CPU, dtype=torch.float32)
