"""The codec: streamed equals whole for any chunking, the duration is exact, and both forms of a convolution agree."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.speech.checkpoints import CODES, tiny_speech
from torch.nn import functional

from vita.speech.codec import Codec, CodecStream, Conv, Upsample, finish
from vita.speech.pieces import ExactPieces

TOKENS = [int(t) for t in torch.randint(0, CODES, (70,), generator=torch.Generator().manual_seed(1))]


@pytest.fixture(scope="module", params=["1", "2"])
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return tiny_speech(tmp_path_factory.mktemp("speech"), codec={"resblock": request.param}).codec


@torch.inference_mode()
def streamed(stream: CodecStream, tokens: list[int], sizes: list[int]) -> torch.Tensor:
    parts, at = [], 0
    for size in sizes:
        parts.append(finish(stream.push(tokens[at : at + size], last=False)))
        at += size
    parts.append(finish(stream.push(tokens[at:], last=True)))
    return torch.cat(parts)


CHUNKINGS = {"count": st.integers(0, len(TOKENS)), "sizes": st.lists(st.integers(0, 25), max_size=8)}


def assert_streamed_equals_whole(codec: Codec, count: int, sizes: list[int]) -> None:
    whole = codec(TOKENS[:count])
    assert len(whole) == 600 * count
    stream = CodecStream(codec)
    for _ in range(2):
        got = streamed(stream, TOKENS[:count], sizes)
        assert len(got) == 600 * count
        assert count == 0 or float((got - whole).abs().max()) <= 2e-6
        stream.reset()


@given(**CHUNKINGS)
@settings(max_examples=8)
def test_streamed_equals_whole_for_any_chunking(codec: Codec, count: int, sizes: list[int]) -> None:
    assert_streamed_equals_whole(codec, count, sizes)


@pytest.mark.slow
@given(**CHUNKINGS)
@settings(max_examples=25)
def test_streamed_equals_whole_for_25_chunkings(codec: Codec, count: int, sizes: list[int]) -> None:
    assert_streamed_equals_whole(codec, count, sizes)


@torch.inference_mode()
def test_a_stream_gives_at_once_all_samples_that_no_later_token_changes(codec: Codec) -> None:
    stream, given_ = CodecStream(codec), 0
    for number in range(30):
        given_ += len(finish(stream.push(TOKENS[number : number + 1], last=False)))
        assert given_ == codec.samples_after(number + 1)
    other = [*TOKENS[:30], *[(t + 1) % CODES for t in TOKENS[30:]]]
    before, after = codec(TOKENS), codec(other)
    assert float((before - after)[:given_].abs().max()) <= 2e-6
    assert float((before - after)[given_ : given_ + 600].abs().max()) > 1e-5
    assert codec.samples_after(codec.tokens_for(1200) - 1) < 1200 <= codec.samples_after(codec.tokens_for(1200))


def test_the_first_piece_is_at_most_80_ms_and_later_ones_grow(codec: Codec) -> None:
    pieces, sizes, at = ExactPieces(codec, first=True), [], 0
    tokens = TOKENS * 3
    with torch.inference_mode():
        while pieces.wanted <= len(tokens):
            at, before = pieces.wanted, at
            sizes.append(len(finish(pieces.push(tokens[before:at], last=False))))
    assert 0 < sizes[0] <= 1920
    assert sizes == sorted(sizes) and sizes[-1] == 20 * 600
    assert all(b <= 1.5 * a + 600 for a, b in pairwise(sizes[1:]))


@pytest.mark.parametrize("kernel", [1, 3, 11])
@pytest.mark.parametrize("dilation", [1, 5])
def test_a_convolution_over_rows_is_pytorchs(kernel: int, dilation: int) -> None:
    conv, stored = Conv(8, 6, kernel, dilation), torch.randn(6, 8, kernel)
    conv.weight.data, conv.bias.data = Conv.stored(stored), torch.randn(6)
    x = torch.randn(70, 8)
    wanted = functional.conv1d(x.t()[None], stored, conv.bias, dilation=dilation)[0].t()
    for got in (conv.by_taps(x), conv.unfolded(x), conv.unfolded(x.t().contiguous().t())):
        assert torch.allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize(("kernel", "rate"), [(4, 2), (11, 5), (9, 5), (7, 3), (3, 3)])
def test_a_transposed_convolution_over_rows_is_pytorchs(kernel: int, rate: int) -> None:
    up, stored = Upsample(8, 6, kernel, rate), torch.randn(8, 6, kernel)
    up.weight.data = Upsample.stored(stored, rate)
    x = torch.randn(9, 8)
    wanted = functional.conv_transpose1d(x.t()[None], stored, stride=rate)[0].t()
    assert torch.allclose(up(x).reshape(-1, 6)[: len(wanted)], wanted, atol=1e-5)


def test_the_voice_is_heard(codec: Codec) -> None:
    before = codec(TOKENS[:5])
    old = codec.config
    try:
        codec.config = type(old)(**{**old.__dict__, "global_tokens": (1, 2, 3, 4)})
        assert float((codec(TOKENS[:5]) - before).abs().max()) > 1e-3
    finally:
        codec.config = old


@torch.inference_mode()
def test_half_precision_weights_give_nearly_the_same_audio(tmp_path: Path) -> None:
    codec = tiny_speech(tmp_path).codec
    exact = codec(TOKENS[:20])
    half = codec.bfloat16()(TOKENS[:20])
    assert half.dtype == torch.float32
    noise = (half - exact).pow(2).mean() / exact.pow(2).mean()
    assert 10 * float(noise.log10()) < -25
