"""The decoder gives the same with and without a cache, in pieces, and in a padded batch; positions are continued."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from vita.config import DecoderConfig
from vita.layers.attention import attend, attend_cached_prefix, causal_mask, choose_backends
from vita.model.decoder import Decoder, padded_mask
from vita.model.kv_cache import KVCache

CPU = torch.device("cpu")
CONFIG = DecoderConfig(48, 96, 3, 4, 2, vocab_size=64)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(1)
    module = Decoder(CONFIG, 64)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.eval()


def cache(capacity: int, batch: int = 1) -> KVCache:
    return KVCache(CONFIG, capacity, batch=batch, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("pieces", [[11], [1] * 11, [4, 7], [7, 3, 1], [1, 10]])
def test_pieces_through_the_cache_equal_one_forward_pass(decoder: Decoder, pieces: list[int]) -> None:
    embeds = torch.randn(1, 11, 48)
    wanted = decoder(embeds)
    kv_cache = cache(11)
    outputs = [decoder(piece, kv_cache) for piece in embeds.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(outputs, dim=1), wanted, atol=1e-4, rtol=1e-4)
    assert kv_cache.length == 11


def test_a_reset_cache_answers_as_a_new_one(decoder: Decoder) -> None:
    embeds, other = torch.randn(1, 6, 48), torch.randn(1, 4, 48)
    kv_cache = cache(12)
    decoder(embeds, kv_cache)
    decoder(other, kv_cache)
    kv_cache.reset(6)  # discards `other`
    torch.testing.assert_close(
        decoder(other, kv_cache), decoder(torch.cat([embeds, other], 1))[:, 6:], atol=1e-4, rtol=1e-4
    )


def test_a_sequence_in_a_padded_batch_equals_the_sequence_alone(decoder: Decoder) -> None:
    lengths = [9, 4, 1]
    rows = [torch.randn(n, 48) for n in lengths]
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    batched = decoder(batch, mask=padded_mask(torch.tensor(lengths), 9))
    assert torch.isfinite(batched).all()
    for row, out in zip(rows, batched, strict=True):
        torch.testing.assert_close(out[: len(row)], decoder(row[None])[0], atol=1e-4, rtol=1e-4)


def test_the_cache_is_written_in_place(decoder: Decoder) -> None:
    kv_cache = cache(8)
    before = kv_cache.keys.data_ptr()
    for _ in range(8):
        decoder(torch.randn(1, 1, 48), kv_cache)
    assert kv_cache.keys.data_ptr() == before
    view, _ = kv_cache.keys[0, :, :, :3], None
    assert view.data_ptr() == before


def test_positions_that_count_up_equal_the_default(decoder: Decoder) -> None:
    embeds = torch.randn(1, 5, 48)
    torch.testing.assert_close(decoder(embeds, positions=torch.arange(5)[None]), decoder(embeds))
    assert (decoder(embeds, positions=torch.arange(5)[None] * 3) - decoder(embeds)).abs().max() > 1e-3


def test_the_cache_takes_the_bytes_it_states() -> None:
    made = KVCache(CONFIG, 10, dtype=torch.bfloat16, device=CPU)
    measured = made.keys.nbytes + made.values.nbytes
    assert measured == 10 * KVCache.bytes_per_position(CONFIG, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_in_half_precision_is_near_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 9, 16), torch.randn(1, 2, 9, 16), torch.randn(1, 2, 9, 16)
    half = attend(q.to(dtype), k.to(dtype), v.to(dtype), causal=True)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), attend(q, k, v, causal=True), atol=0.03, rtol=0.03)


@pytest.mark.parametrize("masked", [False, True])
def test_values_may_be_smaller_than_keys(masked: bool) -> None:
    q, k, v = torch.randn(2, 4, 9, 16), torch.randn(2, 4, 9, 16), torch.randn(2, 4, 9, 8)
    mask = torch.rand(2, 1, 9, 9) > 0.3 if masked else None
    scores = q @ k.transpose(-1, -2) * 0.25
    if mask is not None:
        mask = mask | torch.eye(9, dtype=torch.bool)
        scores = scores.masked_fill(~mask, float("-inf"))
    torch.testing.assert_close(attend(q, k, v, mask=mask), scores.softmax(-1) @ v, atol=1e-5, rtol=1e-5)


def test_attention_after_a_cached_prefix_as_on_cuda() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 6, 5, 16), torch.randn(1, 2, 12, 16), torch.randn(1, 2, 12, 16)
    wanted = attend(q, k, v, mask=causal_mask(5, 7, CPU))
    torch.testing.assert_close(attend_cached_prefix(q, k, v, None), wanted)


def test_attention_on_cuda_never_takes_cudnn_and_the_choice_ends_with_the_call() -> None:
    """cuDNN plans for 40 ms for every new prompt length."""
    cuda = torch.backends.cuda
    before = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())
    cudnn = cuda.cudnn_sdp_enabled()
    with choose_backends(torch.device("cuda")):
        assert cuda.flash_sdp_enabled() and cuda.math_sdp_enabled() and not cuda.cudnn_sdp_enabled()
        q, k = torch.randn(1, 4, 9, 32), torch.randn(1, 2, 9, 32)
        grouped = torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
    assert (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()) == before
    assert cuda.cudnn_sdp_enabled() == cudnn
    torch.testing.assert_close(grouped, attend(q, k, k, causal=True))
