"""Tensor names of the released checkpoint (spec section 1.5). No other module spells them.

Each row maps a parameter or module path of our modules to the checkpoint's; `{n}` is a layer number. A row that names
a module covers its `.weight` and `.bias`.
"""

from __future__ import annotations

import re

_VIT = "model.vision_tower.vision_tower."
_WHALE = "model.audio_encoder.encoder."
_ADAPTER = "model.audio_encoder.adpter."  # spelt so in the release

DECODER = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layers.{n}.attn_norm": "model.layers.{n}.input_layernorm",
    "layers.{n}.mlp_norm": "model.layers.{n}.post_attention_layernorm",
    "layers.{n}.attn.q": "model.layers.{n}.self_attn.q_proj",
    "layers.{n}.attn.k": "model.layers.{n}.self_attn.k_proj",
    "layers.{n}.attn.v": "model.layers.{n}.self_attn.v_proj",
    "layers.{n}.attn.o": "model.layers.{n}.self_attn.o_proj",
    "layers.{n}.mlp.gate": "model.layers.{n}.mlp.gate_proj",
    "layers.{n}.mlp.up": "model.layers.{n}.mlp.up_proj",
    "layers.{n}.mlp.down": "model.layers.{n}.mlp.down_proj",
}
VISION = {
    "class_embedding": _VIT + "embeddings.class_embedding",
    "positions": _VIT + "embeddings.position_embedding",
    "patch": _VIT + "embeddings.patch_embedding.weight",
    "patch_bias": _VIT + "embeddings.patch_embedding.bias",
    "layers.{n}.norm1": _VIT + "encoder.layers.{n}.norm1",
    "layers.{n}.norm2": _VIT + "encoder.layers.{n}.norm2",
    "layers.{n}.scale1": _VIT + "encoder.layers.{n}.ls1",
    "layers.{n}.scale2": _VIT + "encoder.layers.{n}.ls2",
    "layers.{n}.attn.qkv": _VIT + "encoder.layers.{n}.attn.qkv",
    "layers.{n}.attn.proj": _VIT + "encoder.layers.{n}.attn.proj",
    "layers.{n}.attn.q_norm": _VIT + "encoder.layers.{n}.attn.q_norm",
    "layers.{n}.attn.k_norm": _VIT + "encoder.layers.{n}.attn.k_norm",
    "layers.{n}.mlp.fc1": _VIT + "encoder.layers.{n}.mlp.fc1",
    "layers.{n}.mlp.fc2": _VIT + "encoder.layers.{n}.mlp.fc2",
}
AUDIO = {
    "cmvn_mean": _WHALE + "global_cmvn.mean",
    "cmvn_istd": _WHALE + "global_cmvn.istd",
    "subsample.conv1": _WHALE + "enc.0.core.conv.0",
    "subsample.conv2": _WHALE + "enc.0.core.conv.2",
    "subsample.out": _WHALE + "enc.0.core.out.0",
    "embed_linear": _WHALE + "enc.1.embed.0",
    "embed_norm": _WHALE + "enc.1.embed.1",
    "layers.{n}.attn.q": _WHALE + "enc.1.encoders.{n}.self_attn.linear_q",
    "layers.{n}.attn.k": _WHALE + "enc.1.encoders.{n}.self_attn.linear_k",
    "layers.{n}.attn.v": _WHALE + "enc.1.encoders.{n}.self_attn.linear_v",
    "layers.{n}.attn.out": _WHALE + "enc.1.encoders.{n}.self_attn.linear_out",
    "layers.{n}.attn.pos": _WHALE + "enc.1.encoders.{n}.self_attn.linear_pos",
    "layers.{n}.attn.bias_u": _WHALE + "enc.1.encoders.{n}.self_attn.pos_bias_u",
    "layers.{n}.attn.bias_v": _WHALE + "enc.1.encoders.{n}.self_attn.pos_bias_v",
    "layers.{n}.w1": _WHALE + "enc.1.encoders.{n}.feed_forward.w_1",
    "layers.{n}.w2": _WHALE + "enc.1.encoders.{n}.feed_forward.w_2",
    "layers.{n}.norm1": _WHALE + "enc.1.encoders.{n}.norm1",
    "layers.{n}.norm2": _WHALE + "enc.1.encoders.{n}.norm2",
    "layers.{n}.concat": _WHALE + "enc.1.encoders.{n}.concat_linear",
    "after_norm": _WHALE + "enc.1.after_norm",
}
PROJECTOR = {"linears.{n}": "model.mm_projector.{2n}"}  # linear layers have even keys, GELUs odd ones
ADAPTER = {
    "conv": _ADAPTER + "conv1d2",
    "norm": _ADAPTER + "bn2",
    "project": _ADAPTER + "project",
    "prompt": "model.audio_encoder.prompt_embeddings.weight",
}

PARTS: dict[str, dict[str, str]] = {
    "decoder": DECODER,
    "vision": VISION,
    "projector": PROJECTOR,
    "audio": AUDIO,
    "adapter": ADAPTER,
}

# Buffers that some exporters write; the model does not use them.
IGNORED = re.compile(r".*(rotary_emb\.inv_freq|num_batches_tracked)$")


def checkpoint_name(part: str, ours: str) -> str:
    """The checkpoint's name of our parameter.

    Args:
        part: a key of `PARTS`.
        ours: the parameter's path inside our module, e.g. `layers.3.attn.q.weight`.

    Raises:
        KeyError: the table has no such row.
    """
    table = PARTS[part]
    number = re.search(r"\.(\d+)(?=\.|$)", ours)
    path = ours if number is None else ours[: number.start()] + ".{n}" + ours[number.end() :]
    if path in table:
        return _fill(table[path], number)
    stem, _, leaf = path.rpartition(".")
    return _fill(table[stem], number) + "." + leaf


def _fill(pattern: str, number: re.Match[str] | None) -> str:
    if number is None:
        return pattern
    n = int(number.group(1))
    return pattern.replace("{n}", str(n)).replace("{2n}", str(2 * n))
