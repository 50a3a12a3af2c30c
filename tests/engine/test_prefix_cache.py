"""The prefix cache: a prompt that begins as an earlier one did computes only what is new, with the same answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.fakes import new_cache

import vita
from vita.engine.prefix_cache import (
    Atom,
    CachedPrefix,
    MediaKey,
    PrefixCache,
    atoms_of,
    common_prefix,
    filled,
    rows_of,
)
from vita.events import Result
from vita.types import MediaSpan, SamplingParams, TextSpan

RNG = np.random.default_rng(1)
IMAGE, OTHER = (RNG.integers(0, 255, (70, 50, 3), np.uint8) for _ in range(2))
CLIP = vita.Audio(RNG.normal(0, 3000, 16000).astype(np.int16), 16000)
PARAMS = SamplingParams(max_tokens=10, logprobs=1)
TILE, AUDIO = MediaKey("image", b"tile", 4), MediaKey("audio", b"clip", 3)


def evict_one(cache: PrefixCache, keep: CachedPrefix | None = None) -> CachedPrefix | None:
    """The entry that goes first."""
    before = list(cache._entries)
    if not cache.evict(1, keep):
        return None
    (gone,) = [entry for entry in before if entry not in cache._entries]
    return gone


@pytest.fixture(scope="module")
def module_model(mini: Path) -> Iterator[vita.Vita]:
    with vita.load(mini / "mini_ckpt", dtype="float32", device="cpu") as model:
        yield model


@pytest.fixture
def model(module_model: vita.Vita) -> vita.Vita:
    module_model.engine.clear_caches()
    return module_model


def ask(model: vita.Vita, *messages: vita.Message, salt: str = "") -> Result:
    return model.submit(messages, PARAMS, cache_salt=salt).result()


def assert_same(model: vita.Vita, warm: Result, *messages: vita.Message) -> None:
    """What a model that remembers nothing says."""
    model.engine.clear_caches()
    cold = ask(model, *messages)
    assert cold.usage.reused_tokens == 0 and warm.token_ids == cold.token_ids
    for a, b in zip(warm.logprobs, cold.logprobs, strict=True):
        assert abs(a.logprob - b.logprob) < 1e-4


def test_a_second_question_about_an_image_skips_vision(model: vita.Vita) -> None:
    ask(model, vita.user("What is this?", image=IMAGE))
    second = vita.user("And its colour?", image=IMAGE)
    warm = ask(model, second)
    assert warm.timings.vision == 0
    assert warm.usage.reused_tokens > warm.usage.image_tokens > 0
    assert_same(model, warm, second)


def test_a_follow_up_reuses_the_whole_conversation(model: vita.Vita) -> None:
    first = vita.user("Hello", image=IMAGE, audio=CLIP)
    said = ask(model, first)
    talk = (first, vita.assistant(said.text), vita.user("And then?"))
    warm = ask(model, *talk)
    assert warm.timings.vision == warm.timings.audio == 0
    assert warm.usage.reused_tokens > said.usage.prompt_tokens - 5
    assert_same(model, warm, *talk)


def test_another_image_or_clip_is_not_taken_for_the_same(model: vita.Vita) -> None:
    ask(model, vita.user("What is this?", image=IMAGE, audio=CLIP))
    other = vita.user("What is this?", image=OTHER, audio=CLIP)
    warm = ask(model, other)
    assert warm.timings.vision > 0
    assert_same(model, warm, other)
    louder = vita.Audio(CLIP.source * 2, 16000)
    quiet = ask(model, vita.user("What is this?", image=OTHER, audio=louder))
    assert quiet.timings.vision == 0 and quiet.timings.audio > 0


def test_the_same_question_again_computes_one_position(model: vita.Vita) -> None:
    message = vita.user("Hello")
    first, again = ask(model, message), ask(model, message)
    assert again.token_ids == first.token_ids
    assert again.usage.reused_tokens == again.usage.prompt_tokens - 1


def test_equal_requests_keep_one_idle_prefix(model: vita.Vita) -> None:
    # The answer is much longer than the prompt: the slab is not handed over, so each request has one of its own.
    message, params = vita.user("Hello"), SamplingParams(max_tokens=100, ignore_eos=True)
    first = model.submit(message, params).result()
    once, reused = model.engine.stats(), []
    for _ in range(9):
        again = model.submit(message, params).result()
        assert again.token_ids == first.token_ids
        reused.append(again.usage.reused_tokens)
    stats = model.engine.stats()
    assert (stats.kv_idle, stats.idle_prefixes) == (once.kv_idle, once.idle_prefixes) and stats.kv_active == 0
    assert reused == [first.usage.prompt_tokens - 1] * 9
    assert stats.reused_tokens - once.reused_tokens == sum(reused), "every hit is counted"


def test_equal_requests_of_several_sessions_share_one_pinned_prefix(model: vita.Vita) -> None:
    params = SamplingParams(max_tokens=100, ignore_eos=True)
    with model.session() as one, model.session() as two:
        for session in (one, two):
            session.submit(vita.user("Hello"), params).result()
        assert model.engine.stats().idle_prefixes == 1
    for _ in range(2):
        model.submit(vita.user("Hello"), SamplingParams(max_tokens=100, n=3, ignore_eos=True)).result()
    assert model.engine.stats().idle_prefixes == 1


def test_a_longer_answer_gets_a_larger_slab(model: vita.Vita) -> None:
    message = vita.user("Hello")

    def said(tokens: int) -> Result:
        return model.submit(message, SamplingParams(max_tokens=tokens)).result()

    short, long = said(2), said(60)
    assert long.usage.reused_tokens and long.token_ids[:2] == short.token_ids and len(long.token_ids) == 60
    model.engine.clear_caches()
    assert long.token_ids == said(60).token_ids


def test_a_cancelled_answer_leaves_a_usable_beginning(model: vita.Vita) -> None:
    message = vita.user("Hello", image=IMAGE)
    handle = model.submit(message, SamplingParams(max_tokens=1000))
    next(iter(handle))
    handle.cancel()
    handle.result()
    warm = ask(model, message)
    assert warm.usage.reused_tokens == warm.usage.prompt_tokens - 1
    assert_same(model, warm, message)


def test_another_conversation_does_not_cost_this_one_its_prefix(model: vita.Vita) -> None:
    first = vita.user("Hello", image=IMAGE)
    said = ask(model, first)
    for k in range(3):
        ask(model, vita.user(f"Something else {k}", image=OTHER))
    warm = ask(model, first, vita.assistant(said.text), vita.user("And then?"))
    assert warm.timings.vision == 0 and warm.usage.reused_tokens > said.usage.prompt_tokens - 5


def test_tenants_do_not_see_each_other(model: vita.Vita) -> None:
    message = vita.user("Hello", image=IMAGE, audio=CLIP)
    first = ask(model, message, salt="one")
    other = ask(model, message, salt="two")
    assert other.usage.reused_tokens == 0 and other.timings.vision > 0 and other.timings.audio > 0
    assert other.token_ids == first.token_ids
    assert ask(model, message, salt="two").usage.reused_tokens == first.usage.prompt_tokens - 1


class TestPrefixCache:
    def put(self, cache: PrefixCache, *atoms: Atom, salt: str = "", session: int | None = None) -> CachedPrefix:
        slab = new_cache(max(1, rows_of(atoms)))
        slab.length = rows_of(atoms)
        entry = CachedPrefix(atoms, slab, salt)
        if not cache.renew(atoms, salt, session):
            cache.put(entry, session)
        return entry

    def test_the_longest_beginning_wins(self) -> None:
        cache = PrefixCache()
        self.put(cache, 1, 2)
        long = self.put(cache, 1, 2, 3, 4)
        assert cache.find((1, 2, 3, 9), "") == (long, 3)
        assert cache.find((9, 2), "") == (None, 0)

    def test_the_last_atom_is_never_shared(self) -> None:
        cache = PrefixCache()
        entry = self.put(cache, 1, TILE)
        assert cache.find((1, TILE), "") == (entry, 1)
        assert cache.find((1, TILE, 2), "") == (entry, 2)

    def test_only_entries_of_the_same_salt_are_found(self) -> None:
        cache = PrefixCache()
        mine = self.put(cache, 1, 2, salt="a")
        self.put(cache, 1, 2, 3, salt="b")
        assert cache.find((1, 2, 3, 4), "a") == (mine, 2) and cache.find((1, 2, 3, 4), "") == (None, 0)

    def test_a_prompt_that_shares_most_of_an_entry_goes_on_with_it(self) -> None:
        cache = PrefixCache()
        entry = self.put(cache, *range(20))
        assert cache.is_continued(entry, 18) and not cache.is_continued(entry, 17)

    def test_an_entry_that_another_session_pins_is_not_handed_over(self) -> None:
        cache = PrefixCache()
        entry = self.put(cache, *range(20), session=3)
        assert cache.is_continued(entry, 20, 3)
        assert not cache.is_continued(entry, 20, 4) and not cache.is_continued(entry, 20)
        cache.renew(range(20), "", 4)
        assert not cache.is_continued(entry, 20, 3), "both need it"

    def test_eviction_by_age_pinned_entries_last_and_the_kept_one_never(self) -> None:
        cache = PrefixCache()
        pinned, old, new = self.put(cache, 1, session=3), self.put(cache, 2), self.put(cache, 3)
        cache.touch(old)
        assert [evict_one(cache, old), evict_one(cache, old)] == [new, pinned]
        assert evict_one(cache, old) is None and evict_one(cache) is old and len(cache) == cache.nbytes == 0

    def test_eviction_by_size_an_old_entry_stays_if_a_newer_one_makes_the_room(self) -> None:
        cache = PrefixCache()
        small, large, newest = self.put(cache, 1), self.put(cache, *range(20, 60)), self.put(cache, 3)
        assert large.cache.nbytes > 2 * small.cache.nbytes
        assert not cache.evict(cache.nbytes + 1) and len(cache) == 3, "nothing is evicted in vain"
        assert cache.evict(small.cache.nbytes + 1) and cache._entries == [small, newest]
        assert cache.evict(0) and cache._entries == [small, newest]
        assert cache.evict(small.cache.nbytes) and cache._entries == [newest]

    def test_a_session_pins_its_newest_entry_only(self) -> None:
        cache = PrefixCache()
        first, second = self.put(cache, 1, session=3), self.put(cache, 2, session=3)
        assert evict_one(cache) is first
        self.put(cache, 4)
        cache.unpin(3)
        assert evict_one(cache) is second

    def test_an_entry_that_another_one_begins_with_is_not_kept_beside_it(self) -> None:
        cache = PrefixCache()
        long, other = self.put(cache, 1, 2, 3), self.put(cache, 1, 2, 4)
        self.put(cache, 1, 2)
        assert cache._entries == [other, long], "the longer one is kept, and was used last"
        longer = self.put(cache, 1, 2, 4, 5)
        assert cache._entries == [long, longer]
        self.put(cache, 1, 2, 3)
        assert cache._entries == [longer, long]
        tenant = self.put(cache, 1, 2, 3, salt="a")
        assert cache._entries == [longer, long, tenant], "not those of another salt"

    def test_a_media_span_is_compared_whole(self) -> None:
        cache = PrefixCache()
        first, second = self.put(cache, 1, TILE, 2), self.put(cache, 1, AUDIO, 2)
        assert cache._entries == [first, second]
        self.put(cache, 1, TILE)
        assert cache._entries == [second, first]

    def test_an_entry_keeps_the_pins_of_those_that_it_replaces(self) -> None:
        cache = PrefixCache()
        self.put(cache, 1, 2, session=3)
        long = self.put(cache, 1, 2, 5)
        self.put(cache, 1, session=4)
        other = self.put(cache, 7)
        assert len(cache) == 2 and evict_one(cache) is other, "the session whose entry was replaced pins the longer one"
        other = self.put(cache, 7)
        cache.unpin(3)
        assert evict_one(cache) is other, "another session pins it too"
        cache.unpin(4)
        self.put(cache, 7)
        assert evict_one(cache) is long

    def test_a_session_whose_newest_entry_is_another_no_longer_pins_the_shared_one(self) -> None:
        cache = PrefixCache()
        shared = self.put(cache, 1, 2, session=3)
        newest = self.put(cache, 9, session=3)
        assert evict_one(cache) is shared and evict_one(cache) is newest

    @given(st.lists(st.integers(0, 1), max_size=30), st.lists(st.integers(0, 1), max_size=30))
    def test_the_common_beginning(self, a: list[int], b: list[int]) -> None:
        count = 0
        while count < min(len(a), len(b)) and a[count] == b[count]:
            count += 1
        assert common_prefix(tuple(a), tuple(b)) == count

    @given(st.lists(st.integers(1, 5), max_size=12), st.integers(0, 40))
    def test_filled_atoms_lie_whole_within(self, rows: list[int], length: int) -> None:
        atoms: list[Atom] = [k if n == 1 else MediaKey("image", b"%d" % k, n) for k, n in enumerate(rows)]
        kept = filled(atoms, length)
        assert rows_of(kept) <= length and tuple(atoms[: len(kept)]) == kept
        assert len(kept) == len(atoms) or rows_of(atoms[: len(kept) + 1]) > length

    def test_atoms_of_a_prompt(self) -> None:
        spans = (TextSpan((1, 2)), MediaSpan("image", b"tile", 4), TextSpan((3,)), MediaSpan("audio", b"clip", 3))
        assert atoms_of(spans) == (1, 2, TILE, 3, AUDIO) and rows_of(atoms_of(spans)) == 10
