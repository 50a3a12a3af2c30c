"""Decoders with random weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vita.config import DecoderConfig
from vita.model.decoder import Decoder
from vita.quant.scheme import STORED, quantize_modules, quantize_weight


def random_decoder(config: DecoderConfig, scheme: str | None, stored: Callable[[Tensor], Tensor]) -> Decoder:
    """Linear layers are quantised by `scheme`, if it is one; all else is what `stored` makes of float32."""
    torch.manual_seed(1)
    with torch.device("meta"):
        decoder = Decoder(config, config.vocab_size)
    if scheme:
        quantize_modules(decoder, scheme)
    state: dict[str, Tensor] = {}
    for name, wanted in decoder.state_dict().items():
        packed = 2 if wanted.dtype == torch.uint8 else 1  # values of int4 in a byte
        values = torch.randn(*wanted.shape[:-1], wanted.shape[-1] * packed) * (0.02 if name.endswith("bias") else 0.1)
        if wanted.dtype in STORED:
            state[name], state[name.removesuffix("weight") + "scale"] = quantize_weight(values, wanted.dtype)
        elif name not in state:
            state[name] = stored(1 + values if "norm" in name else values)
    decoder.load_state_dict(state, assign=True)
    return decoder.eval().requires_grad_(False)
