"""Encoder cache: decoder rows of images and audio by content digest, least recently used first out.

The prefix cache already spares a conversation that goes on. This cache spares the same image in another conversation or
at another place of a prompt, and equal frames of a video.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

MOST_BYTES = 128 << 20


class EncoderCache:
    """Rows by digest, the most recently used kept. Safe to use from several threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._rows: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def fill(self, keys: Sequence[bytes], encode: Callable[[list[int]], Sequence[Tensor]]) -> list[Tensor]:
        """Rows of every key, computed only where they are not known.

        Args:
            keys: one a tile or sound, equal where the content is equal.
            encode: given the places of the first of each unknown key, returns their rows in that order.
        """
        found = {key: rows for key in dict.fromkeys(keys) if (rows := self._get(key)) is not None}
        unknown = [key for key in dict.fromkeys(keys) if key not in found]
        if unknown:
            for key, rows in zip(unknown, encode([keys.index(key) for key in unknown]), strict=True):
                found[key] = rows
                self._put(key, rows)
        return [found[key] for key in keys]

    def _get(self, key: bytes) -> Tensor | None:
        with self._lock:
            rows = self._rows.get(key)
            if rows is not None:
                self._rows.move_to_end(key)
            return rows

    def _put(self, key: bytes, rows: Tensor) -> None:
        with self._lock:
            if key in self._rows or rows.nbytes > self.most_bytes:
                return
            self._rows[key] = rows
            self._bytes += rows.nbytes
            while self._bytes > self.most_bytes:
                self._bytes -= self._rows.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._rows.clear()
            self._bytes = 0
