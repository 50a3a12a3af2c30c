"""A step of the speech decoder by the Triton kernels, recorded as the text decoder's, equals its step."""

from __future__ import annotations

import pytest
import torch

from vita.config import DecoderConfig
from vita.engine.cuda_graphs import CudaGraphDecode
from vita.engine.decode import EagerDecode
from vita.speech.config import SPECIAL_IDS, SpeechDecoderConfig
from vita.speech.tts import SpeechDecoder, SpeechSampling

CODES = 40
SIZES = DecoderConfig(
    64, 128, 2, 2, 2, CODES + SPECIAL_IDS, rope_theta=1e4, attention_bias=False, head_bias=True
)  # heads of 32, as the kernels ask for; the biases are those of the speech decoder


@pytest.mark.slow
def test_tokens_of_the_kernels_are_the_decoders() -> None:
    torch.manual_seed(2)
    model = SpeechDecoder(SpeechDecoderConfig(CODES, SIZES)).eval().requires_grad_(False)
    model.decoder.head.bias.uniform_(-1, 1)
    model.decoder.head.bias[model.config.end_id] = -1e4
    options = SpeechSampling(top_k=1, max_tokens=4)
    hidden = [torch.randn(1, n, 64) for n in (3, 7)]
    wanted = [model.generate(EagerDecode(model.decoder), rows, options) for rows in hidden]
    assert len(set(wanted[0] + wanted[1])) > 2
    assert CudaGraphDecode.supports(model.decoder)
    decode = CudaGraphDecode(model.decoder, quantized_kv_cache=False, splits=2)
    with torch.inference_mode():
        rows = []
        for one in hidden:
            cache = model.new_cache(16)
            for _ in model.fill_prefix(one, cache):
                pass
            rows.append(model.start(cache, options, options.state()))
        while not rows[0].ended:
            model.step(decode, rows)
    assert [row.tokens for row in rows] == wanted
