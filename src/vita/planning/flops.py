"""FLOPs of a stage and bytes of weights that a decode step reads, counted from configurations and modules."""

from __future__ import annotations

import torch

from vita.config import DecoderConfig
from vita.model.decoder import Decoder
from vita.model.vita import VitaModel


def weight_bytes(decoder: Decoder) -> int:
    """Bytes of weights that one decode step reads: all but the embedding table, of which it reads one row."""
    named = decoder.state_dict()  # a tied table appears twice, as the embedding and as the head
    return sum(t.nbytes for t in named.values()) - named["embed.weight"].nbytes


def prefill_flops(model: VitaModel, length: int, past: int = 0) -> float:
    """Floating-point operations of `length` positions after `past` cached ones; a multiply-add counts as two.

    Attention counts only what the causal mask allows; the head counts for the last position.
    """
    d: DecoderConfig = model.config.decoder
    table = model.vocab_size * d.hidden_size
    tables = table if d.tie_word_embeddings else 2 * table
    linears = 2 * (model.parameter_counts()["decoder"] - tables) * length
    pairs = length * past + length * (length + 1) / 2  # query-key pairs
    return linears + 4 * d.num_layers * d.hidden_size * pairs + 2 * table


def vision_flops(model: VitaModel, tiles: int) -> float:
    """FLOPs of the ViT and the projector for so many tiles, counted by running both on the meta device.

    Args:
        model: on the meta device, not quantised.
        tiles: `[tiles, 3, S, S]` is the input.
    """
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, and only counting needs it

    size = model.config.vision.image_size
    pixels = torch.empty(1, 3, size, size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.projector(model.vision(pixels))
    return float(counter.get_total_flops() * tiles)


def audio_flops(model: VitaModel, frames: int) -> float:
    """FLOPs of the audio encoder and its adapter for so many filterbank frames, counted in the same way."""
    from torch.utils.flop_counter import FlopCounterMode

    bank = torch.empty(1, frames, model.config.audio.input_dim, device="meta")
    lengths = torch.tensor([frames])
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        # The mask of a single input is all true; on the meta device it has no values, and none are needed.
        model.adapter(*model.audio(bank, lengths.to("meta")))
    return float(counter.get_total_flops())
