"""A device kept one step ahead answers the same, and the cache tells what it was fed."""

from __future__ import annotations

import pytest
import torch

from vita.config import DecoderConfig
from vita.engine.generate import decode
from vita.engine.decode import EagerDecode
from vita.engine.sampler import Sampler
from vita.errors import Cancelled
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache
from vita.runtime.clock import Stopwatch
from vita.types import SamplingParams

CONFIG = DecoderConfig(32, 64, 2, 4, 2, 50)
CPU = torch.device("cpu")
LENGTH = 5


class Run:
    """One answer of a random decoder."""

    def __init__(self, *, ahead: bool, params: SamplingParams, stop: frozenset[int], limit: int = 12) -> None:
        torch.manual_seed(5)
        decoder = Decoder(CONFIG, 50).eval().requires_grad_(False)
        self.cache, self.watch = KVCache(CONFIG, LENGTH + limit, dtype=torch.float32, device=CPU), Stopwatch(CPU)
        hidden = decoder(torch.randn(1, LENGTH, 32), self.cache)
        steps = EagerDecode(decoder)
        self.fed: list[int] = []

        def step(token: torch.Tensor, cache: KVCache) -> torch.Tensor:
            self.fed.append(int(token))
            return steps(token[None], [cache])[0]

        sampler = Sampler(params, 1.3, CPU)
        first = decoder.logits(hidden[:, -1:])[0, 0]
        self.tokens = decode(
            step, first, self.cache, sampler, stop, limit, lambda: self.cancelled, self.watch, ahead=ahead
        )
        self.cancelled = False


GREEDY = SamplingParams()


@pytest.mark.parametrize(
    "params", [GREEDY, SamplingParams(temperature=1.5, top_p=0.9, seed=3), SamplingParams(logprobs=3)]
)
def test_ahead_or_not_the_answer_is_the_same(params: SamplingParams) -> None:
    plain, ahead = (list(Run(ahead=a, params=params, stop=frozenset()).tokens) for a in (False, True))
    assert plain == ahead and len(plain) == 12


def test_ahead_it_stops_where_it_must_and_the_cache_holds_what_was_fed() -> None:
    ids = [token.id for token in Run(ahead=False, params=GREEDY, stop=frozenset()).tokens]
    stop = frozenset({ids[6]})
    until = ids.index(ids[6]) + 1
    for ahead in (False, True):
        run = Run(ahead=ahead, params=GREEDY, stop=stop)
        assert [token.id for token in run.tokens] == ids[:until]
        assert run.fed == ids[: until if ahead else until - 1]
        assert run.cache.length == LENGTH + len(run.fed)


def test_ahead_nothing_is_fed_behind_the_last_token() -> None:
    run = Run(ahead=True, params=GREEDY, stop=frozenset(), limit=4)
    assert len(list(run.tokens)) == 4 and len(run.fed) == 3
    assert set(run.watch.seconds) == {"decode"}


def test_ahead_a_cancelled_answer_ends_at_the_next_token() -> None:
    run = Run(ahead=True, params=GREEDY, stop=frozenset())
    next(run.tokens)
    run.cancelled = True
    with pytest.raises(Cancelled):
        next(run.tokens)
    assert len(run.fed) == 1, "the step that was on its way, and none after it"
