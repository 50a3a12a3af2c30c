"""Prefix cache: KV caches of earlier prompts and answers, so that no beginning is prefilled twice.

An idle KV cache is found again by what its positions hold: token ids, and media by digest. Entries of one `cache_salt`
are invisible to requests with another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from vita.model.kv_cache import KVCache
from vita.types import MediaKind, Span, TextSpan

HANDOVER_SHARE = 0.9  # of an idle cache that a prompt must want for the cache itself to be handed over


class MediaKey(NamedTuple):
    """A `MediaSpan` without its data."""

    kind: MediaKind
    digest: bytes
    rows: int


Atom: TypeAlias = int | MediaKey  # a piece of a prompt that is reused whole or not at all


def atoms_of(spans: Sequence[Span]) -> tuple[Atom, ...]:
    """A prompt as atoms: its token ids, and one key for every media span."""
    atoms: list[Atom] = []
    for span in spans:
        if isinstance(span, TextSpan):
            atoms += span.ids
        else:
            atoms.append(MediaKey(span.kind, span.digest, span.rows))
    return tuple(atoms)


def rows_of(atoms: Sequence[Atom]) -> int:
    """Positions that atoms take."""
    return sum(1 if isinstance(atom, int) else atom.rows for atom in atoms)


def filled(atoms: Sequence[Atom], rows: int) -> tuple[Atom, ...]:
    """The atoms that lie whole within the first `rows` positions."""
    count = 0
    for atom in atoms:
        rows -= 1 if isinstance(atom, int) else atom.rows
        if rows < 0:
            break
        count += 1
    return tuple(atoms[:count])


def common_prefix(a: Sequence[Atom], b: Sequence[Atom]) -> int:
    """Atoms that two prompts have in common at their beginning.

    Bisection over slices: comparing tuples runs in C, which a loop over 30,000 tokens in the engine thread does not.
    """
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(eq=False)
class CachedPrefix:
    """An idle KV cache.

    Attributes:
        atoms: what its filled positions hold, all of them.
        cache: the keys and values.
        salt: of the requests that may use it.
        pins: sessions that pin it, which makes it the last to be evicted.
    """

    atoms: tuple[Atom, ...]
    cache: KVCache
    salt: str
    pins: set[int] = field(default_factory=set)


class PrefixCache:
    """Idle KV caches, least recently used first. Used by the engine thread only.

    No entry is the beginning of another one of the same salt: equal requests keep one KV cache, not one each.
    """

    def __init__(self) -> None:
        self._entries: list[CachedPrefix] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Memory of all entries."""
        return sum(entry.cache.nbytes for entry in self._entries)

    def find(self, atoms: Sequence[Atom], salt: str) -> tuple[CachedPrefix | None, int]:
        """The entry with the longest common beginning, and how many atoms that is.

        The last atom of a prompt is never shared, since its logits are wanted.
        """
        wanted = tuple(atoms[:-1])
        best: CachedPrefix | None = None
        shared = 0
        for entry in self._entries:
            longer = slice(shared + 1)  # what an entry must have in common to be better: one comparison skips most
            if entry.salt != salt or len(wanted) <= shared or entry.atoms[longer] != wanted[longer]:
                continue
            best, shared = entry, common_prefix(entry.atoms, wanted)
        return best, shared

    def is_continued(self, entry: CachedPrefix, shared: int, session: int | None = None) -> bool:
        """Whether a prompt that shares so many atoms goes on where the entry ends, and no session but the prompt's own
        pins the entry: it gets the cache itself."""
        return entry.pins <= {session} and rows_of(entry.atoms[:shared]) >= HANDOVER_SHARE * entry.cache.length

    def renew(self, atoms: Sequence[Atom], salt: str, session: int | None = None) -> bool:
        """Whether an entry begins with these atoms. It becomes the most recently used one, pinned by `session` too."""
        held = tuple(atoms)
        for entry in self._entries:
            if entry.salt == salt and entry.atoms[: len(held)] == held:
                self._pin(entry, session)
                self.touch(entry)
                return True
        return False

    def put(self, entry: CachedPrefix, session: int | None = None) -> None:
        """Add an entry that `renew` did not find, the most recently used one, pinned by `session`.

        It replaces the entries that it begins with, and is pinned by their sessions too.
        """
        for other in list(self._entries):
            if other.salt == entry.salt and entry.atoms[: len(other.atoms)] == other.atoms:
                entry.pins |= other.pins
                self._entries.remove(other)
        self._pin(entry, session)
        self._entries.append(entry)

    def _pin(self, entry: CachedPrefix, session: int | None) -> None:
        """A session pins its newest entry only."""
        if session is not None:
            self.unpin(session)
            entry.pins.add(session)

    def touch(self, entry: CachedPrefix) -> None:
        """Make an entry the most recently used one."""
        self._entries.remove(entry)
        self._entries.append(entry)

    def remove(self, entry: CachedPrefix) -> None:
        """Forget one entry."""
        self._entries.remove(entry)

    def evict(self, size: int, keep: CachedPrefix | None = None) -> bool:
        """Remove entries until so many bytes are free: the oldest first, pinned ones last, none that is not needed.

        Returns:
            False if all entries but `keep` hold less; then none is removed.
        """
        if size <= 0:
            return True
        victims: list[CachedPrefix] = []
        candidates = sorted((entry for entry in self._entries if entry is not keep), key=lambda entry: bool(entry.pins))
        for entry in candidates:  # the oldest first
            if size <= 0:
                break
            victims.append(entry)
            size -= entry.cache.nbytes
        if size > 0:
            return False
        for entry in reversed(victims):  # the most valuable first
            if entry.cache.nbytes <= -size:
                size += entry.cache.nbytes
            else:
                self._entries.remove(entry)
        return True

    def unpin(self, session: int) -> None:
        """A session no longer holds on to its entries."""
        for entry in self._entries:
            entry.pins.discard(session)

    def clear(self) -> None:
        """Forget every entry."""
        self._entries.clear()
