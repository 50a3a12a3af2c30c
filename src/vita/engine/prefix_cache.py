"""Conversations that were answered before: their key/value caches, so that no turn is prefilled twice.

Owns the resting caches and finding the longest common beginning of a new prompt and an old one. A picture or sound is
known by a digest of what the encoder would see, so the same picture in another file is the same. Does not compute.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from vita.model.kv_cache import KVCache
from vita.prompt.template import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER

MOST_CACHES = 4
MOST_BYTES = 512 << 20
GOES_ON = 0.9  # share of a cache that a prompt must want for the cache to be handed over


@dataclass(frozen=True)
class Unit:
    """A piece of a prompt that is reused whole or not at all: a token, a tile, a sound."""

    key: int | bytes
    rows: int = 1


@dataclass
class CachedPrefix:
    """A cache nobody uses at the moment, and what its positions stand for."""

    units: list[Unit]
    cache: KVCache


def units_of(
    ids: Sequence[int], tiles: Sequence[bytes], tile_rows: int, sounds: Sequence[bytes], sound_rows: Sequence[int]
) -> list[Unit]:
    """A prompt as units.

    Args:
        ids: token ids with slots.
        tiles: names of all slots' tiles, in order.
        tile_rows: decoder rows of a tile.
        sounds: names of the sounds, in order.
        sound_rows: decoder rows of each sound.
    """
    seen, heard = iter(tiles), iter(zip(sounds, sound_rows, strict=True))
    units = []
    for token in ids:
        if token == IMAGE_PLACEHOLDER:
            units.append(Unit(next(seen), tile_rows))
        elif token == AUDIO_PLACEHOLDER:
            units.append(Unit(*next(heard)))
        else:
            units.append(Unit(token))
    return units


def rows_of(units: Sequence[Unit]) -> int:
    """Positions that units take."""
    return sum(unit.rows for unit in units)


def filled(units: Sequence[Unit], rows: int) -> list[Unit]:
    """The units that lie whole within the first `rows` positions."""
    kept = []
    for unit in units:
        rows -= unit.rows
        if rows < 0:
            break
        kept.append(unit)
    return kept


class PrefixCache:
    """Resting caches, the most recently used first. Safe to use from several threads."""

    def __init__(self, most_caches: int = MOST_CACHES, most_bytes: int = MOST_BYTES) -> None:
        self.most_caches, self.most_bytes = most_caches, most_bytes
        self._resting: list[CachedPrefix] = []
        self._lock = threading.RLock()  # an abandoned stream may be finalised, and put back, inside `take`

    def take(self, units: Sequence[Unit], capacity: int) -> tuple[KVCache | None, int]:
        """A cache that holds the longest beginning known of a prompt, and how many units that is.

        The last unit is never shared, since its logits are wanted. A conversation that goes on gets its own cache
        back; one that only begins alike (the system text, the same picture) gets a copy of that beginning.

        Args:
            units: the prompt.
            capacity: positions the request may need.
        """
        with self._lock:
            best, shared = None, 0
            for resting in self._resting:
                same = _common(resting.units, units[:-1])
                if same > shared:
                    best, shared = resting, same
            if best is None:
                return None, 0
            rows = rows_of(units[:shared])
            if rows < GOES_ON * best.cache.length:
                return best.cache.copy_prefix(rows, capacity), shared
            self._resting.remove(best)
        best.cache.reset(rows)
        return best.cache if capacity <= best.cache.capacity else best.cache.copy_prefix(rows, capacity), shared

    def put(self, units: list[Unit], cache: KVCache) -> None:
        """Let a cache rest; `units` are all its filled positions. The oldest make room."""
        if cache.nbytes > self.most_bytes or not units:
            return
        with self._lock:
            self._resting.insert(0, CachedPrefix(units, cache))
            while len(self._resting) > self.most_caches or self._bytes() > self.most_bytes:
                self._resting.pop()

    def clear(self) -> None:
        """Forget every conversation."""
        with self._lock:
            self._resting.clear()

    def _bytes(self) -> int:
        return sum(r.cache.nbytes for r in self._resting)


def _common(old: Sequence[Unit], new: Sequence[Unit]) -> int:
    count = 0
    for a, b in zip(old, new, strict=False):
        if a != b:
            break
        count += 1
    return count
