"""The KV pool: its budget holds whatever is asked for, and what is given back is found again."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.fakes import DECODER, POSITION_BYTES, new_cache

from vita.engine.kv_pool import KVPool
from vita.engine.prefix_cache import rows_of
from vita.model.kv_cache import KVCache


def pool(positions: int) -> KVPool:
    return KVPool(positions * POSITION_BYTES, new_cache, POSITION_BYTES)


def acquire(p: KVPool, atoms: tuple[int, ...], capacity: int, salt: str = "", answers: int = 1) -> KVCache:
    found = p.acquire(atoms, capacity, salt, answers)
    assert found is not None
    cache, shared = found
    assert cache.length == rows_of(atoms[:shared])
    return cache


def fill(cache: KVCache, atoms: tuple[int, ...]) -> None:
    """Compute the positions of these atoms: each holds its own id."""
    for position in range(cache.length, len(atoms)):
        cache.keys[..., position, 0] = atoms[position]
        cache.values[..., position, 0] = -atoms[position]
    cache.length = len(atoms)


def held(cache: KVCache) -> list[int]:
    assert torch.equal(cache.keys[..., : cache.length, :], -cache.values[..., : cache.length, :])
    return [int(value) for value in cache.keys[0, 0, 0, : cache.length, 0]]


def prime(p: KVPool, atoms: tuple[int, ...], capacity: int | None = None, **options: object) -> KVCache:
    """A sequence that was computed and has ended."""
    cache = acquire(p, atoms, capacity or len(atoms))
    fill(cache, atoms)
    p.release(cache, atoms, "", **options)  # type: ignore[arg-type]
    return cache


def test_a_conversation_that_goes_on_gets_its_own_slab_and_another_a_copy() -> None:
    p = pool(100)
    first = prime(p, tuple(range(10)), capacity=12)
    other = acquire(p, (0, 1, 2, 99), 5)
    assert other is not first and held(other) == [0, 1, 2] and other.capacity == 5
    again = acquire(p, (*range(10), 50), 12)
    assert again is first and held(again) == list(range(10))
    assert len(p.prefixes) == 0 and p.active == p.used == 17 * POSITION_BYTES


def test_the_last_position_of_a_prompt_is_always_computed() -> None:
    p = pool(100)
    prime(p, (1, 2, 3))
    assert acquire(p, (1, 2, 3), 3).length == 2


def test_a_slab_that_is_too_small_is_replaced_by_a_larger_copy() -> None:
    p = pool(100)
    first = prime(p, tuple(range(10)))
    larger = acquire(p, (*range(10), 11), 40)
    assert larger is not first and larger.capacity == 40 and held(larger) == list(range(10))
    assert len(p.prefixes) == 0, "the smaller one is not kept beside it"


def test_idle_slabs_are_trimmed() -> None:
    p = pool(100)
    prime(p, tuple(range(10)), capacity=60)
    assert p.active == 0 and p.prefixes.nbytes == 10 * POSITION_BYTES
    found = acquire(p, (*range(10), 11), 20)
    assert held(found) == list(range(10))


def test_only_filled_positions_are_kept() -> None:
    p = pool(100)
    cache = acquire(p, (1, 2, 3, 4), 8)
    fill(cache, (1, 2))
    p.release(cache, (1, 2, 3, 4), "")
    assert acquire(p, (1, 2, 3, 4), 8).length == 2
    empty = acquire(p, (7, 8), 8)
    p.release(empty, (7, 8), "")
    assert len(p.prefixes) == 0


def test_equal_sequences_leave_one_slab_and_evict_nothing() -> None:
    p = pool(55)
    prime(p, tuple(range(100, 110)))
    first, second = (acquire(p, tuple(range(8)), 15) for _ in "ab")
    for cache in (first, second):
        fill(cache, tuple(range(12)))
        p.release(cache, tuple(range(12)), "")
    assert len(p.prefixes) == 2 and p.used == 25 * POSITION_BYTES
    third = acquire(p, (*range(8), 50), 15)
    fill(third, tuple(range(8)))
    p.release(third, tuple(range(8)), "")
    assert len(p.prefixes) == 2, "an idle slab holds it already"
    longer = acquire(p, (*range(12), 12), 30)
    fill(longer, tuple(range(30)))
    p.release(longer, tuple(range(30)), "")
    assert len(p.prefixes) == 2 and p.used == 40 * POSITION_BYTES


def test_a_session_keeps_its_slab_when_others_ask_the_same() -> None:
    p = pool(60)
    first = prime(p, tuple(range(10)), capacity=12, session=7)
    other = acquire(p, tuple(range(10)), 12)
    assert other is not first and held(other) == list(range(9))
    fill(other, tuple(range(12)))
    p.release(other, tuple(range(12)), "")
    [entry] = p.prefixes._entries
    assert entry.cache is other and entry.pins == {7}, "the longer slab takes its place and its pin"
    found = p.acquire((*range(12), 50), 20, "", session=7)
    assert found is not None and held(found[0]) == list(range(12)) and len(p.prefixes) == 0


def test_the_least_recently_used_goes_first_and_pinned_ones_last() -> None:
    p = pool(40)
    prime(p, tuple(range(10)), session=7)
    prime(p, tuple(range(100, 110)))
    prime(p, tuple(range(200, 210)))
    acquire(p, (*range(100, 103), 1), 10)  # touches it
    acquire(p, (9, 9), 10)
    assert [entry.atoms[0] for entry in p.prefixes._entries] == [0, 100]
    acquire(p, (9, 9), 10)
    assert [entry.atoms[0] for entry in p.prefixes._entries] == [0]
    acquire(p, (9, 9), 10)
    assert len(p.prefixes) == 0, "a pin is a preference, not a deadlock"
    assert p.acquire((9, 9), 1, "") is None and p.used == p.budget


def test_what_cannot_be_had_evicts_nothing() -> None:
    p = pool(40)
    acquire(p, (1, 2), 20)
    prime(p, tuple(range(10)))
    assert p.acquire((5, 5), 21, "") is None and len(p.prefixes) == 1


def test_a_prefix_gives_way_to_the_request_that_it_belongs_to() -> None:
    p = pool(20)
    prime(p, tuple(range(15)))
    cache = acquire(p, (0, 1, 2, 99), 20)
    assert cache.length == 0 and len(p.prefixes) == 0, "no room for prefix and copy: computed anew, not refused"


def test_salts_see_nothing_of_each_other() -> None:
    p = pool(100)
    atoms = tuple(range(10))
    for salt in ("a", "b"):
        found = p.acquire(atoms, 10, salt)
        assert found is not None and found[1] == 0
        fill(found[0], atoms)
        p.release(found[0], atoms, salt)
    assert len(p.prefixes) == 2
    found = p.acquire((*atoms, 3), 12, "a")
    assert found is not None and found[1] == 10


def test_several_answers_have_their_memory_before_they_begin() -> None:
    p = pool(40)
    first = acquire(p, (1, 2, 3), 10, answers=3)
    assert p.active == 30 * POSITION_BYTES and p.acquire((9, 9), 11, "") is None
    fill(first, (1, 2, 3))
    copies = [p.fork(first, 10) for _ in range(2)]
    assert [held(copy) for copy in copies] == [[1, 2, 3]] * 2 and p.active == 30 * POSITION_BYTES
    copies[0].keys.zero_()
    assert held(first) == [1, 2, 3], "a slab of its own"
    for cache in (first, *copies):
        p.drop(cache)
    assert p.active == 0
    p.drop(acquire(p, (1, 2, 3), 10, answers=3))
    p.unreserve(20 * POSITION_BYTES)
    assert p.active == 0


def test_several_answers_get_the_slab_of_the_conversation_only_if_all_fit() -> None:
    p = pool(30)
    first = prime(p, tuple(range(10)))
    assert acquire(p, (*range(9), 99), 10, answers=3) is first
    assert p.active == p.used == p.budget
    p = pool(30)
    prime(p, tuple(range(10)), capacity=15)
    assert acquire(p, (*range(9), 99), 10, answers=3).capacity == 10
    assert p.active == p.used == p.budget


def test_growing_keeps_what_is_filled_and_replaces_the_smaller_slab() -> None:
    p = pool(40)
    cache = acquire(p, (1, 2, 3), 5)
    fill(cache, (1, 2, 3))
    prime(p, tuple(range(10)))
    grown = p.grow(cache, 30)
    assert grown is not None and grown.capacity == 30 and held(grown) == [1, 2, 3]
    assert p.active == p.used == 30 * POSITION_BYTES, "an idle slab made room"
    assert p.grow(grown, 41) is None and p.active == 30 * POSITION_BYTES


def test_the_memory_of_a_position_is_what_a_slab_takes() -> None:
    assert new_cache(7).nbytes == 7 * POSITION_BYTES
    for quantized in (False, True):
        cache = KVCache(DECODER, 9, dtype=torch.float32, device=torch.device("cpu"), quantized=quantized)
        assert cache.nbytes == 9 * KVCache.bytes_per_position(DECODER, torch.float32, quantized=quantized)


PROMPT = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)


@settings(deadline=None)
@given(
    st.integers(10, 60),
    st.lists(
        st.tuples(
            st.sampled_from(["acquire", "acquire", "release", "drop", "grow", "cancel"]), PROMPT, st.integers(0, 12),
            st.integers(1, 3), st.sampled_from(["", "b"]), st.sampled_from([None, None, 1, 2]),
        ),
        max_size=40,
    ),
)  # fmt: skip
def test_the_budget_is_never_exceeded_and_no_byte_is_lost(
    positions: int, operations: list[tuple[str, tuple[int, ...], int, int, str, int | None]]
) -> None:
    p = pool(positions)
    active: list[tuple[KVCache, tuple[int, ...], str, int | None]] = []
    for name, atoms, more, answers, salt, session in operations:
        if name == "acquire":
            capacity = len(atoms) + more
            found = p.acquire(atoms, capacity, salt, answers, session)
            if found is None:
                assert p.active + capacity * answers * POSITION_BYTES > p.budget, "refused although there was room"
                continue
            cache, shared = found
            assert cache.capacity >= capacity and shared < len(atoms)
            assert held(cache) == list(atoms[:shared]), "what is reused is what the prompt begins with"
            fill(cache, atoms)
            active.append((cache, atoms, salt, session))
            if answers == 3:
                p.unreserve(2 * capacity * POSITION_BYTES)
            else:
                active += [(p.fork(cache, capacity), atoms, salt, session) for _ in range(answers - 1)]
        elif active:
            cache, atoms, salt, session = active.pop(more % len(active))
            if name == "release":
                p.release(cache, atoms, salt, session)
            elif name == "grow" and (grown := p.grow(cache, cache.capacity + 3)) is not None:
                assert held(grown) == list(atoms)
                active.append((grown, atoms, salt, session))
            elif name == "grow":
                active.append((cache, atoms, salt, session))
            else:
                p.drop(cache)
        assert p.active == sum(cache.nbytes for cache, *_ in active)
        assert p.used <= p.budget
        idle = p.prefixes._entries
        for one, other in itertools.permutations(idle, 2):
            assert one.salt != other.salt or one.atoms != other.atoms[: len(one.atoms)], "kept twice"
        assert not {id(c) for c, *_ in active} & {id(entry.cache) for entry in p.prefixes._entries}
    for cache, atoms, salt, session in active:
        p.release(cache, atoms, salt, session)
    assert p.active == 0 and p.used == p.prefixes.nbytes <= p.budget
    whole = p.acquire((9, 9), positions, "")
    assert whole is not None, "idle slabs, pinned or not, never hold up a request"


@pytest.mark.parametrize("positions", [10, 11])
def test_what_can_hold(positions: int) -> None:
    assert pool(10).can_hold(positions) == (positions == 10)
