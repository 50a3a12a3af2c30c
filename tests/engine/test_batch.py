"""Requests that decode together get what they would get alone, and really share their steps."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import vita
from vita.config import DecoderConfig
from vita.engine.batch import Batcher
from vita.engine.decode import MAX_BATCH, EagerDecode
from vita.errors import ResourceError
from vita.events import Result
from vita.kernels.cpu.bindings import kernels
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache, KVCacheBatch
from vita.quant.scheme import quantize_modules, quantize_weight
from vita.types import SamplingParams

CONFIG = DecoderConfig(32, 64, 2, 4, 2, 50)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(5)
    return Decoder(CONFIG, 50).eval().requires_grad_(False)


def prompt(decoder: Decoder, length: int) -> KVCache:
    cache = KVCache(CONFIG, length + 20, dtype=torch.float32, device=CPU)
    decoder(torch.randn(1, length, 32, generator=torch.Generator().manual_seed(length)), cache)
    return cache


def greedy(step: object, cache: KVCache, token: int, count: int) -> list[int]:
    out = []
    for _ in range(count):
        token = int(step(torch.tensor(token), cache).argmax())  # type: ignore[operator]
        out.append(token)
    return out


def test_a_step_together_is_each_step_alone(decoder: Decoder) -> None:
    lengths = (1, 7, 12, 3)
    alone, shared = ([prompt(decoder, n) for n in lengths] for _ in range(2))
    rows = torch.randn(len(lengths), 1, 32)
    for _ in range(3):
        wanted = torch.cat([decoder(row[None], cache) for row, cache in zip(rows, alone, strict=True)])
        got = decoder(rows, KVCacheBatch(shared))
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        rows = wanted
    assert [c.length for c in shared] == [c.length for c in alone] == [n + 3 for n in lengths]


def test_in_four_bits_company_changes_no_bit_of_an_answer() -> None:
    """Whole numbers are summed exactly, and everything else request by request."""
    if kernels() is None:
        pytest.skip("NO COMPILER: weights are widened, and PyTorch's products depend on the number of rows")
    config = DecoderConfig(128, 256, 2, 4, 2, 90)
    torch.manual_seed(3)
    small = Decoder(config, 90).bfloat16().eval().requires_grad_(False)
    weights = {name: layer.weight for name, layer in small.named_modules() if isinstance(layer, nn.Linear)}
    quantize_modules(small, "int4")
    for name, weight in weights.items():
        layer = small.get_submodule(name)
        layer.weight, layer.scale = quantize_weight(weight.detach(), layer.weight.dtype)
    small.bfloat16()  # the biases of the new layers
    lengths = (3, 40, 1, 17, 9, 25, 2)

    def caches() -> list[KVCache]:
        made = [KVCache(config, n + 4, dtype=torch.bfloat16, device=CPU) for n in lengths]
        for n, cache in zip(lengths, made, strict=True):
            small(torch.randn(1, n, 128, generator=torch.Generator().manual_seed(n)).bfloat16(), cache)
        return made

    with torch.inference_mode():
        alone, shared = caches(), caches()
        rows = torch.randn(len(lengths), 1, 128).bfloat16()
        for _ in range(3):
            wanted = torch.cat(
                [small(row[None], KVCacheBatch([cache])) for row, cache in zip(rows, alone, strict=True)]
            )
            got = small(rows, KVCacheBatch(shared))
            assert torch.equal(got, wanted) and torch.equal(small.logits(got), small.logits(wanted))
            rows = wanted


def test_requests_that_come_at_once_share_their_steps(decoder: Decoder) -> None:
    batcher = Batcher(EagerDecode(decoder), threading.Lock())
    counts = [5, 9, 9, 7, 9, 3]
    alone = [
        greedy(Batcher(EagerDecode(decoder), threading.Lock()).step, prompt(decoder, 4 + k), k, n)
        for k, n in enumerate(counts)
    ]
    begin = threading.Barrier(len(counts))

    def ask(k: int) -> list[int]:
        cache = prompt(decoder, 4 + k)
        begin.wait()
        try:
            return greedy(batcher.step, cache, k, counts[k])
        finally:
            batcher.leave(cache)

    def wait(*_: object) -> None:
        time.sleep(0.01)

    slow = decoder.head.register_forward_hook(wait)
    try:
        with ThreadPoolExecutor(len(counts)) as pool:
            together = list(pool.map(ask, range(len(counts))))
    finally:
        slow.remove()
    assert together == alone
    assert batcher.rows / batcher.steps >= 0.6 * sum(counts) / max(counts), (batcher.rows, batcher.steps)


def test_more_requests_than_rows_all_end(decoder: Decoder) -> None:
    batcher, count = Batcher(EagerDecode(decoder), threading.Lock()), MAX_BATCH + 5

    def ask(k: int) -> list[int]:
        cache = prompt(decoder, 3)
        try:
            return greedy(batcher.step, cache, 1, 4)
        finally:
            batcher.leave(cache)

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(ask, range(count)))
    assert len({tuple(a) for a in answers}) == 1
    assert batcher.rows == 4 * count and batcher.steps >= batcher.rows / MAX_BATCH, "at most sixteen a step"


def test_a_request_that_pauses_holds_nobody_up(decoder: Decoder) -> None:
    batcher = Batcher(EagerDecode(decoder), threading.Lock())
    sleeper, worker = prompt(decoder, 3), prompt(decoder, 5)
    batcher.step(torch.tensor(1), sleeper)  # and then its reader goes to lunch
    done = threading.Thread(target=greedy, args=(batcher.step, worker, 1, 12))
    done.start()
    done.join(timeout=10)
    assert not done.is_alive()


def test_a_failed_step_reaches_those_who_wait_and_the_next_one_works(decoder: Decoder) -> None:
    batcher, cache = Batcher(EagerDecode(decoder), threading.Lock()), prompt(decoder, 3)

    def fail(*_: object) -> Tensor:
        raise RuntimeError("out of memory")

    broken = decoder.head.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.step(torch.tensor(1), cache)
    broken.remove()
    assert batcher.step(torch.tensor(1), cache).shape == (50,)


def test_an_interrupted_leader_does_not_leave_the_others_waiting(decoder: Decoder) -> None:
    batcher, begin = Batcher(EagerDecode(decoder), threading.Lock()), threading.Barrier(3)
    caches = [prompt(decoder, 3) for _ in range(3)]
    ended: list[str] = []

    def interrupt(*_: object) -> None:
        time.sleep(0.02)
        raise KeyboardInterrupt

    def ask(cache: KVCache) -> None:
        begin.wait()
        try:
            batcher.step(torch.tensor(1), cache)
        except (KeyboardInterrupt, RuntimeError) as error:
            ended.append(type(error).__name__)

    broken = decoder.head.register_forward_hook(interrupt)
    threads = [threading.Thread(target=ask, args=(cache,), daemon=True) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    broken.remove()
    assert len(ended) == 3 and "KeyboardInterrupt" in ended
    assert batcher.step(torch.tensor(1), prompt(decoder, 3)).shape == (50,)


def test_the_engines_answers_in_company_are_those_alone(mini_model: vita.Vita) -> None:
    params = SamplingParams(max_tokens=16)
    questions = ["Hello", "And?", "What is this?", "Why", "A longer question about nothing in particular."]
    alone = [mini_model.ask(q, params=params).token_ids for q in questions]
    begin = threading.Barrier(len(questions))

    def ask(question: str) -> tuple[int, ...]:
        begin.wait()
        return Result.collect(mini_model.stream(vita.user(question), params)).token_ids

    with ThreadPoolExecutor(len(questions)) as pool:
        assert list(pool.map(ask, questions)) == alone


def test_a_request_that_no_memory_is_left_for_is_refused(
    mini_model: vita.Vita, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini_model.engine.prefixes.clear()
    monkeypatch.setattr("vita.engine.engine.available_memory", lambda device: 10)
    with pytest.raises(ResourceError, match=r"a request of .* positions needs .* are available; ask for fewer tokens"):
        mini_model.ask("Something that was never asked before")
    monkeypatch.undo()
    assert mini_model.ask("Something that was never asked before").token_ids
