"""The static key/value cache: allocated once for a request, written in place, never copied.

Owns its memory and how much of it is filled. Does not know what the keys mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vita.config import DecoderConfig
from vita.layers.attention import Attend


class KVCache:
    """Keys and values of every layer, `[layers, batch, kv_heads, capacity, d]`.

    `length` positions are filled; the decoder moves it on after a forward pass.
    """

    def __init__(
        self, config: DecoderConfig, capacity: int, *, batch: int = 1, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_layers, batch, config.num_kv_heads, capacity, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    @staticmethod
    def bytes_per_position(config: DecoderConfig, dtype: torch.dtype) -> int:
        """What one position of one sequence costs."""
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append `[batch, kv_heads, n, d]` at `length`; returns views of all keys and values up to the new end."""
        end = self.length + k.shape[2]
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def attend(self, attend: Attend, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Extend one layer and attend to all of it: `[batch, heads, n, d]`."""
        keys, values = self.write(layer, k, v)
        return attend(q, keys, values, mask=mask, causal=mask is None and q.shape[2] > 1)

    def positions(self, n: int, device: torch.device) -> Tensor:
        """int64 `[1, n]`: where the next `n` rows stand."""
        return torch.arange(self.length, self.length + n, device=device)[None]

    def advance(self, n: int) -> None:
        """`n` positions more are filled, in every layer."""
        self.length += n

    @property
    def nbytes(self) -> int:
        """Memory it holds, filled or not."""
        return self.keys.nbytes + self.values.nbytes

    def copied(self, length: int, capacity: int) -> KVCache:
        """A cache of its own with the first `length` positions of this one and room for `capacity`."""
        layers, batch, heads, _, width = self.keys.shape
        other = object.__new__(KVCache)
        shape = (layers, batch, heads, capacity, width)
        other.keys, other.values = self.keys.new_empty(shape), self.values.new_empty(shape)
        other.keys[:, :, :, :length] = self.keys[:, :, :, :length]
        other.values[:, :, :, :length] = self.values[:, :, :, :length]
        other.capacity, other.length = capacity, length
        return other

    def reset(self, length: int = 0) -> None:
        """Forget everything after the first `length` positions."""
        self.length = length


class Together:
    """Caches of several requests, each of its own length, for one decode step of all.

    Products with weights see all rows at once; attention sees each row with its own cache.
    """

    length = 0  # a step has one new position a row, so no mask is needed that would ask for it

    def __init__(self, caches: Sequence[KVCache]) -> None:
        self.caches = caches

    def attend(self, attend: Attend, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """As `KVCache.attend`, row by row; `[batch, heads, 1, d]`."""
        rows = zip(self.caches, q.split(1), k.split(1), v.split(1), strict=True)
        return torch.cat([cache.attend(attend, layer, qi, ki, vi, None) for cache, qi, ki, vi in rows])

    def positions(self, n: int, device: torch.device) -> Tensor:
        """int64 `[batch, 1]`."""
        return torch.tensor([[cache.length] for cache in self.caches], device=device)

    def advance(self, n: int) -> None:
        """One more position in each."""
        for cache in self.caches:
            cache.advance(n)
