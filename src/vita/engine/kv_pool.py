"""KV pool: one budget for all keys and values, reserved before a sequence is admitted.

Contiguous slabs, one a sequence. Idle slabs are the prefix cache's and count too; they are evicted when a sequence
needs the room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vita.engine.prefix_cache import Atom, CachedPrefix, PrefixCache, filled, rows_of
from vita.model.kv_cache import KVCache

MEMORY_ERRORS = (RuntimeError, MemoryError)  # of PyTorch's allocators: the one for CPUs raises RuntimeError itself
MAX_WASTE = 0.5  # of an idle slab that may be empty; more is trimmed off


class KVPool:
    """Slabs of keys and values within a budget. Used by the engine thread only.

    Args:
        budget: bytes for active and idle slabs together.
        allocate: makes a slab of so many positions.
        bytes_per_position: of one sequence.
    """

    def __init__(self, budget: int, allocate: Callable[[int], KVCache], bytes_per_position: int) -> None:
        self.budget = budget
        self.prefixes = PrefixCache()
        self._allocate, self._position = allocate, bytes_per_position
        self.active = 0  # bytes of slabs in use

    @property
    def used(self) -> int:
        """Bytes of all slabs, active and idle."""
        return self.active + self.prefixes.nbytes

    def bytes_for(self, positions: int) -> int:
        """What a slab of so many positions takes."""
        return positions * self._position

    def can_hold(self, positions: int) -> bool:
        """Whether so many positions fit into an empty pool."""
        return self.bytes_for(positions) <= self.budget

    def acquire(
        self, atoms: Sequence[Atom], capacity: int, salt: str, answers: int = 1, session: int | None = None
    ) -> tuple[KVCache, int] | None:
        """A slab for a prompt that holds the longest beginning known of it, and how many atoms that is.

        A conversation that goes on gets its own slab back; one that only begins alike gets a copy of the beginning.

        Args:
            atoms: the prompt.
            capacity: positions that the sequence may need.
            salt: see `PrefixCache`.
            answers: that the request wants. Memory for all but the first is reserved, for `fork` or `unreserve`.
            session: of the request. The slab that another session pins is copied.

        Returns:
            None if the active slabs leave too little room.

        Raises:
            RuntimeError, MemoryError: the system has no memory for it, not even without the idle slabs.
        """
        try:
            return self._acquire(atoms, capacity, salt, answers, session)
        except MEMORY_ERRORS:
            self.prefixes.clear()
        return self._acquire(atoms, capacity, salt, answers, session)

    def _acquire(
        self, atoms: Sequence[Atom], capacity: int, salt: str, answers: int, session: int | None
    ) -> tuple[KVCache, int] | None:
        """`acquire`, which counts and hands over nothing before the memory is there."""
        reserved = self.bytes_for(capacity) * (answers - 1)
        entry, shared = self.prefixes.find(atoms, salt)
        rows = rows_of(atoms[:shared])
        continued = entry is not None and self.prefixes.is_continued(entry, shared, session)
        if (
            entry is not None
            and continued
            and capacity <= entry.cache.capacity
            and self._evict_for(reserved, keep=entry)
        ):
            self.prefixes.remove(entry)
            entry.cache.reset(rows)
            self.active += entry.cache.nbytes + reserved
            return entry.cache, shared
        need = self.bytes_for(capacity) + reserved
        if not self._evict_for(need, keep=entry):
            if entry is None or not self._evict_for(need):
                return None
            entry, shared = None, 0
        if entry is None:
            cache = self._allocate(capacity)
        else:
            cache = entry.cache.copy_prefix(rows, capacity)
            if continued:
                self.prefixes.remove(entry)
            else:
                self.prefixes.touch(entry)
        self.active += cache.nbytes + reserved
        return cache, shared

    def _evict_for(self, need: int, keep: CachedPrefix | None = None) -> bool:
        """Evict idle slabs until so many bytes are free. If that cannot be reached, nothing is evicted."""
        kept = 0 if keep is None else keep.cache.nbytes
        if self.active + kept + need > self.budget:
            return False
        return self.prefixes.evict(self.used + need - self.budget, keep)

    def fork(self, cache: KVCache, capacity: int) -> KVCache:
        """A second slab with the same positions, for another answer to the same prompt, from reserved memory."""
        return self._copy(cache, capacity)

    def _copy(self, cache: KVCache, capacity: int) -> KVCache:
        """A copy of an active slab, for which idle ones make way if the system has no memory."""
        try:
            return cache.copy_prefix(cache.length, capacity)
        except MEMORY_ERRORS:
            self.prefixes.clear()
        return cache.copy_prefix(cache.length, capacity)

    def unreserve(self, size: int) -> None:
        """Give back bytes that `acquire` reserved and no `fork` used."""
        self.active -= size

    def grow(self, cache: KVCache, capacity: int) -> KVCache | None:
        """The same positions in a larger slab, which replaces the smaller one; None if there is no room."""
        if not self._evict_for(self.bytes_for(capacity)):
            return None
        grown = self._copy(cache, capacity)
        self.active += grown.nbytes - cache.nbytes
        return grown

    def release(self, cache: KVCache, atoms: Sequence[Atom], salt: str, session: int | None = None) -> None:
        """A sequence has ended: its slab becomes idle, unless an idle one holds the same positions. This never fails.

        Args:
            cache: from `acquire`, `fork` or `grow`.
            atoms: prompt and answer; what lies whole within the filled positions is kept.
            salt: see `PrefixCache`.
            session: pins the entry.
        """
        self.active -= cache.nbytes
        kept = filled(atoms, cache.length)
        rows = rows_of(kept)
        if not rows or self.prefixes.renew(kept, salt, session):
            return
        cache.reset(rows)
        if rows < MAX_WASTE * cache.capacity:
            try:
                cache = cache.copy_prefix(rows, rows)
            except MEMORY_ERRORS:
                return  # memory is short: the slab is freed as it is
        entry = CachedPrefix(kept, cache, salt)
        self.prefixes.put(entry, session)  # frees the slabs that hold a beginning of it, before any is evicted
        self._evict_for(0, keep=entry)

    def drop(self, cache: KVCache) -> None:
        """A slab is freed and nothing of it is kept."""
        self.active -= cache.nbytes
