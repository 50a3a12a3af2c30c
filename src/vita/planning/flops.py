"""What a stage cannot do without: multiply-adds and bytes read.

Owns the counting, from configurations and modules alone, so that a rate can be held against a ceiling. Does not
measure anything.
"""

from __future__ import annotations

import torch

from vita.checkpoint.load import build_part, parameter_counts
from vita.config import DecoderConfig, VitaConfig
from vita.model.decoder import Decoder


def weight_bytes(decoder: Decoder) -> int:
    """Bytes of weights that one decode step reads: all but the embedding table, of which it takes a row."""
    named = decoder.state_dict()  # a table that is also the head is in it twice
    return sum(t.nbytes for t in named.values()) - named["embed.weight"].nbytes


def prefill_flops(config: VitaConfig, vocab_size: int, length: int, past: int = 0) -> float:
    """Floating-point operations of `length` positions behind `past`; a multiply-add is two.

    Attention counts only what a position may see; the head counts for the last position.
    """
    d: DecoderConfig = config.decoder
    table = vocab_size * d.hidden_size
    tables = table if d.tie_word_embeddings else 2 * table
    products = 2 * (parameter_counts(config, vocab_size)["decoder"] - tables) * length
    seen = length * past + length * (length + 1) / 2
    return products + 4 * d.num_layers * d.hidden_size * seen + 2 * table


def vision_flops(config: VitaConfig, tiles: int) -> float:
    """Of tiles through the ViT and the projector, counted by running both without memory."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, and answering needs no counts

    size = config.vision.image_size
    with torch.device("meta"):
        pixels = torch.empty(1, 3, size, size)
    vision, projector = (build_part(part, config, 1) for part in ("vision", "projector"))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        projector(vision(pixels))
    return float(counter.get_total_flops() * tiles)


def audio_flops(config: VitaConfig, frames: int) -> float:
    """Of filterbank frames through the Whale encoder and its adapter, counted alike."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        bank = torch.empty(1, frames, config.audio.input_dim)
    encoder, adapter = (build_part(part, config, 1) for part in ("audio", "adapter"))
    lengths = torch.tensor([frames])
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        # The mask of a lone sound is all true; made on the meta device it has no values, and none are needed.
        adapter(*encoder(bank, lengths.to("meta")))
    return float(counter.get_total_flops())
