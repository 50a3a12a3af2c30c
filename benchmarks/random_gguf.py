"""Write a random GGUF of the decoder's shape in Q4_0 or Q4_K_M, for llama.cpp beside us (`peers.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from vita.config import DecoderConfig

if TYPE_CHECKING:
    import gguf

Format = Literal["q4_0", "q4_k_m"]


def write_gguf(d: DecoderConfig, file: Path, form: Format) -> None:
    """Write the decoder's shape with random weights; types of tensors as llama.cpp's own quantiser chooses them."""
    import gguf

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_context_length(32768)
    writer.add_embedding_length(d.hidden_size)
    writer.add_block_count(d.num_layers)
    writer.add_feed_forward_length(d.intermediate_size)
    writer.add_head_count(d.num_heads)
    writer.add_head_count_kv(d.num_kv_heads)
    writer.add_rope_freq_base(d.rope_theta)
    writer.add_layer_norm_rms_eps(d.rms_norm_eps)
    writer.add_vocab_size(d.vocab_size)
    # Any vocabulary will do, but without one llama.cpp crashes at the first step.
    letters = bytes_to_unicode()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*letters, *(f"<{k}>" for k in range(d.vocab_size - len(letters)))])
    writer.add_token_types([1] * d.vocab_size)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(d.vocab_size - 1)

    def vector(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, np.float32))

    def matrix(name: str, rows: int, width: int, kind: gguf.GGMLQuantizationType) -> None:
        writer.add_tensor(name, random_blocks(rng, rows, width, kind), raw_dtype=kind)

    kinds = gguf.GGMLQuantizationType
    q4, q6 = kinds.Q4_0 if form == "q4_0" else kinds.Q4_K, kinds.Q6_K
    hidden, kv = d.hidden_size, d.num_kv_heads * d.head_dim
    matrix("token_embd.weight", d.vocab_size, hidden, q4)
    matrix("output.weight", d.vocab_size, hidden, q6)
    vector("output_norm.weight", hidden)
    for k in range(d.num_layers):
        more = q6 if form == "q4_k_m" and has_more_bits(k, d.num_layers) else q4
        for name, rows, width, kind in (
            ("attn_q", hidden, hidden, q4), ("attn_k", kv, hidden, q4), ("attn_v", kv, hidden, more),
            ("attn_output", hidden, hidden, q4), ("ffn_gate", d.intermediate_size, hidden, q4),
            ("ffn_up", d.intermediate_size, hidden, q4), ("ffn_down", hidden, d.intermediate_size, more),
        ):  # fmt: skip
            matrix(f"blk.{k}.{name}.weight", rows, width, kind)
        for name, size in (("attn_q.bias", hidden), ("attn_k.bias", kv), ("attn_v.bias", kv)):
            vector(f"blk.{k}.{name}", size)
        vector(f"blk.{k}.attn_norm.weight", hidden)
        vector(f"blk.{k}.ffn_norm.weight", hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def has_more_bits(layer: int, layers: int) -> bool:
    """Whether Q4_K_M has this layer's value and down projections in Q6_K: first and last eighth, a third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def random_blocks(
    rng: np.random.Generator, rows: int, width: int, kind: gguf.GGMLQuantizationType
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Random weights of a type, uint8 `[rows, bytes]`, with small scales so that activations stay finite."""
    import gguf

    values, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (rows * width // values, size), np.uint8)
    scale = np.array([{"Q4_0": 0.005, "Q4_K": 0.0005, "Q6_K": 0.0001}[kind.name]], np.float16).view(np.uint8)
    # float16 scales of a block: at its start, of Q6_K at its end; Q4_K has a second one for the minimum.
    for at in {"Q4_0": (0,), "Q4_K": (0, 2), "Q6_K": (size - 2,)}[kind.name]:
        raw[:, at : at + 2] = scale
    return raw.reshape(rows, -1)


def bytes_to_unicode() -> list[str]:
    """The 256 characters by which byte-level vocabularies write bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())
