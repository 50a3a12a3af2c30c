"""Encoder cache: decoder rows of image tiles and audio clips by content, so that nothing is encoded twice.

The prefix cache already spares a conversation that goes on. This cache spares the same image in another conversation or
at another place of a prompt, and equal frames of a video.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

MAX_BYTES = 128 << 20


class EncoderCache:
    """Rows `[rows, H]` by digest, least recently used evicted first. Used by the engine thread only.

    Entries of one `cache_salt` are invisible to requests with another.

    Attributes:
        hits: contents that a request found.
        misses: contents that were encoded; counted by the runner, since the scheduler looks a content up several times.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.hits = self.misses = 0
        self._rows: OrderedDict[tuple[str, bytes], Tensor] = OrderedDict()

    def get(self, digest: bytes, salt: str) -> Tensor | None:
        """What an encoder made of this content, if it is known."""
        rows = self._rows.get((salt, digest))
        if rows is None:
            return None
        self.hits += 1
        self._rows.move_to_end((salt, digest))
        return rows

    def put(self, digest: bytes, salt: str, rows: Tensor) -> None:
        """Keep rows; one result that is larger than the whole cache is not kept."""
        if (salt, digest) in self._rows or rows.nbytes > self.max_bytes:
            return
        self._rows[salt, digest] = rows
        self.nbytes += rows.nbytes
        while self.nbytes > self.max_bytes:
            self.nbytes -= self._rows.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self.nbytes = 0
