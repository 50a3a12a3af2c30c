"""The static key/value cache: allocated once for a request, written in place, never copied.

Owns its memory and how much of it is filled. Does not know what the keys mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vita.config import DecoderConfig


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
