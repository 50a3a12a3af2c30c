"""A decode step by two native calls a layer: the bits of the decoder's own operations."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from tests.kernels.cpu_builds import GuardedKernels, builds, compile_builds
from tests.kernels.decoders import random_decoder
from torch import nn

from vita.config import DecoderConfig
from vita.engine.decode import EagerDecode, choose_decode_runner
from vita.kernels.cpu import bindings
from vita.kernels.cpu.compile import Loaded
from vita.model import native_layers
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache
from vita.model.native_layers import NativeLayers, choose_native_layers

CAPACITY = 700
LENGTHS = (0, 1, 255, 256, 600, 3, 17, 100, 0, 31, 2, 63, 64, 65, 300, 5)
CONFIG = DecoderConfig(128, 320, 2, 4, 2, 97, attention_bias=True)
ODD = DecoderConfig(192, 448, 3, 3, 1, 70)  # heads of 64, without biases


@pytest.fixture(scope="module", params=builds(["native", "AVX-512 VNNI", "AVX2"]), autouse=True)
def guarded(request: pytest.FixtureRequest) -> Iterator[GuardedKernels]:
    """Kernels whose workspaces are guarded, for the decoder's operations and for the native layers."""
    library = compile_builds([request.param], request.config.cache.mkdir("kernels")).get(request.param)
    if library is None:
        pytest.skip("NO C COMPILER, OR NOT THIS PROCESSOR")
    kernels, threads = GuardedKernels(library), torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(bindings, "_loaded", lambda: (kernels, Loaded(None, "a test's")))
        yield kernels
    torch.set_num_threads(threads)


def decoder_of(config: DecoderConfig, scheme: str | None) -> Decoder:
    """Random weights in bfloat16, quantised by a scheme."""
    return random_decoder(config, scheme, torch.Tensor.bfloat16)


def caches_of(config: DecoderConfig, lengths: tuple[int, ...], *, quantized: bool = False) -> list[KVCache]:
    """Filled with noise up to their lengths."""
    caches = []
    for seed, length in enumerate(lengths):
        torch.manual_seed(seed)
        cache = KVCache(config, CAPACITY, dtype=torch.bfloat16, device=torch.device("cpu"), quantized=quantized)
        for layer in range(config.num_layers):
            shape = (1, config.num_kv_heads, length, config.head_dim)
            cache.write(layer, torch.randn(shape).bfloat16(), torch.randn(shape).bfloat16())
        cache.length = length
        caches.append(cache)
    return caches


def native(decoder: Decoder) -> NativeLayers:
    found = choose_native_layers(decoder)
    assert found is not None
    return found


@pytest.mark.parametrize("quantized", [False, True], ids=["bfloat16 cache", "int8 cache"])
@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
@pytest.mark.parametrize("config", [CONFIG, ODD], ids=["biases", "no biases"])
def test_a_step_has_the_bits_of_the_operations(
    guarded: GuardedKernels, config: DecoderConfig, scheme: str | None, rows: int, quantized: bool
) -> None:
    decoder = decoder_of(config, scheme)
    step, plain = EagerDecode(decoder, native=native(decoder)), EagerDecode(decoder)
    ours, theirs = (caches_of(config, LENGTHS[:rows], quantized=quantized) for _ in range(2))
    for tokens in (torch.arange(rows), torch.arange(rows) + 7):
        assert torch.equal(step(tokens, ours), plain(tokens, theirs))
        guarded.check_guards()
    for mine, other, length in zip(ours, theirs, LENGTHS, strict=False):
        assert mine.length == other.length == length + 2
        assert torch.equal(mine.keys[..., : length + 2, :], other.keys[..., : length + 2, :])
        assert torch.equal(mine.values[..., : length + 2, :], other.values[..., : length + 2, :])


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_row_has_the_same_bits_in_every_batch(scheme: str) -> None:
    decoder = decoder_of(CONFIG, scheme)
    step, tokens = native(decoder), torch.arange(len(LENGTHS))
    together = step(tokens, caches_of(CONFIG, LENGTHS))
    pair = step(tokens[:2], caches_of(CONFIG, LENGTHS[:2]))
    assert torch.equal(together[:2], pair)


def test_the_engine_takes_it() -> None:
    decoder = decoder_of(CONFIG, "int4")
    native(decoder)
    runner = choose_decode_runner(decoder, quantized_kv_cache=False)
    assert isinstance(runner, EagerDecode) and runner._native is not None


def test_what_it_does_not_know_is_computed_by_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(CONFIG, "int4")
    native(decoder)
    assert choose_native_layers(decoder_of(CONFIG, "int4").float()) is None, "float32"
    narrow = DecoderConfig(64, 128, 1, 4, 2, 11)
    assert choose_native_layers(decoder_of(narrow, "int4")) is None, "heads of 16"
    streamed = decoder_of(CONFIG, "int4")
    streamed.layers[1].register_forward_hook(lambda module, args, output: None)
    assert choose_native_layers(streamed) is None, "a layer is streamed from disk"

    class Adapted(nn.Linear):
        pass

    adapted = decoder_of(CONFIG, None)
    adapted.layers[0].mlp.up = Adapted(128, 320, bias=False).bfloat16()
    assert choose_native_layers(adapted) is None, "a layer of another type"
    monkeypatch.setattr(native_layers, "kernels", lambda: None)
    assert choose_native_layers(decoder) is None, "no compiler"


def test_a_full_cache_is_refused() -> None:
    decoder = decoder_of(CONFIG, "int4")
    with pytest.raises(ValueError, match="full"):
        native(decoder)(torch.tensor([1]), caches_of(CONFIG, (CAPACITY,)))


def test_it_keeps_its_weights_alive() -> None:
    decoder = decoder_of(CONFIG, "int4")
    step, weight = native(decoder), weakref.ref(decoder.layers[0].mlp.up.weight)
    wanted = step(torch.tensor([1]), caches_of(CONFIG, (5,)))
    del decoder
    assert weight() is not None
    assert torch.equal(step(torch.tensor([1]), caches_of(CONFIG, (5,))), wanted)
