"""Tensor names of the released checkpoint (spec section 1.5). No other module spells them.

Each row maps a parameter or module path of our modules to the checkpoint's; `{n}` and `{m}` are layer numbers. A row
that names a module covers its `.weight` and `.bias`.
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

# The speech checkpoint (spec sections 9.2 and 9.3): one table for each file, in `SPEECH_PARTS`.
_LLAMA = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
SPEECH_DECODER = {
    "decoder.embed": "embedding",
    "decoder.norm": "norm",
    "decoder.head": "out_fnn",
    **{f"decoder.layers.{{n}}.{ours}": f"layers.{{n}}.{theirs}" for ours, theirs in _LLAMA.items()},
    **{f"pre_network.layers.{{n}}.{ours}": f"layers_pre_nn.{{n}}.{theirs}" for ours, theirs in _LLAMA.items()},
}
# Convolutions are stored as weight_g and weight_v, whose names follow from the row.
CODEC = {
    "codes": "quantizer.quantizer_modules.0.embedding",
    "global_codes.{n}": "quantizer.quantizer_modules_globaltokens.{n}.embedding",
    "conv_pre": "generator.conv_pre",
    "conv_post": "generator.conv_post",
    "ups.{n}": "generator.ups.{n}",
    "blocks.{n}.convs1.{m}": "generator.resblocks.{n}.convs1.{m}",
    "blocks.{n}.convs2.{m}": "generator.resblocks.{n}.convs2.{m}",
    "blocks.{n}.convs.{m}": "generator.resblocks.{n}.convs.{m}",
}
SPEECH_PARTS: dict[str, dict[str, str]] = {"speech_decoder": SPEECH_DECODER, "codec": CODEC}
# Of the speech checkpoint: layers and modules that nothing but training uses.
SPEECH_IGNORED = re.compile(r"(layers_prefix|encoder)\..*")

# Buffers that some exporters write; the model does not use them.
IGNORED = re.compile(r".*(rotary_emb\.inv_freq|num_batches_tracked)$")


def checkpoint_name(part: str, ours: str) -> str:
    """The checkpoint's name of our parameter.

    Args:
        part: a key of `PARTS` or `SPEECH_PARTS`.
        ours: the parameter's path inside our module, e.g. `layers.3.attn.q.weight`.

    Raises:
        KeyError: the table has no such row.
    """
    table = PARTS[part] if part in PARTS else SPEECH_PARTS[part]
    numbers = [int(found) for found in re.findall(r"\.(\d+)(?=\.|$)", ours)]
    marks = iter(("{n}", "{m}"))
    path = re.sub(r"\.\d+(?=\.|$)", lambda _: "." + next(marks), ours)
    if path in table:
        return _fill(table[path], numbers)
    stem, _, leaf = path.rpartition(".")
    return _fill(table[stem], numbers) + "." + leaf


def _fill(pattern: str, numbers: list[int]) -> str:
    for mark, number in zip(("n", "m"), numbers, strict=False):
        pattern = pattern.replace(f"{{{mark}}}", str(number)).replace(f"{{2{mark}}}", str(2 * number))
    return pattern
