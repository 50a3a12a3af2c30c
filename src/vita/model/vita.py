"""The complete model: encoders, projectors and decoder as typed modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from vita.config import VitaConfig
from vita.model.audio import AudioEncoder
from vita.model.decoder import Decoder
from vita.model.projectors import AudioAdapter, Projector
from vita.model.vision import VisionEncoder
from vita.options import Quantize
from vita.quant.linear import QuantizedLinear
from vita.quant.scheme import quantize_modules, scheme_of

PartName = Literal["decoder", "vision", "projector", "audio", "adapter"]


class VitaModel(nn.Module):
    """All modules of one model.

    Args:
        config: sizes.
        vocab_size: rows of embedding and head after the vocabulary cut (spec section 1.6).
    """

    def __init__(self, config: VitaConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        hidden = config.decoder.hidden_size
        self.decoder = Decoder(config.decoder, vocab_size)
        self.vision = VisionEncoder(config.vision)
        self.projector = Projector(4 * config.vision.hidden_size, hidden, config.projector_layers)
        self.audio = AudioEncoder(config.audio)
        self.adapter = AudioAdapter(config.audio, hidden)

    @classmethod
    def on_meta(cls, config: VitaConfig, vocab_size: int, quantize: Quantize | None = None) -> VitaModel:
        """Names, shapes and dtypes on the meta device: no memory, no values."""
        with torch.device("meta"):
            model = cls(config, vocab_size)
        if quantize:
            model.quantize(quantize)
        return model

    def parts(self) -> Iterator[tuple[PartName, nn.Module]]:
        """Every module with its name in `checkpoint.names.PARTS`."""
        yield "decoder", self.decoder
        yield "vision", self.vision
        yield "projector", self.projector
        yield "audio", self.audio
        yield "adapter", self.adapter

    def quantize(self, scheme: Quantize) -> None:
        """Replace the linear layers that the scheme names by quantised ones, without values.

        Encoders and projectors keep their precision unless the scheme names them. For a model on the meta device
        that is not quantised yet.
        """
        for name, part in self.parts():
            chosen = scheme_of(name, scheme)
            if chosen:
                quantize_modules(part, chosen)

    def parameter_counts(self) -> dict[str, int]:
        """Learned values of each part, the same for quantised layers.

        The two normalisation vectors of the audio encoder are statistics, not parameters. A tied embedding table
        counts once.
        """
        counts: dict[str, int] = {name: _count(part) for name, part in self.parts()}
        if self.config.decoder.tie_word_embeddings:
            counts["decoder"] -= self.vocab_size * self.config.decoder.hidden_size
        return counts


def _count(module: nn.Module) -> int:
    learned = sum(p.numel() for name, p in module.named_parameters() if not name.startswith("cmvn_"))
    return learned + sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, QuantizedLinear))
