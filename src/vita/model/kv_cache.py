"""The static key/value cache: allocated once for a request, written in place, never copied.

Owns its memory and how much of it is filled. Does not know what the keys mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vita.config import DecoderConfig
from vita.kernels.cpu.bindings import BlockTable, bf16_kernels
from vita.layers.attention import Attend

QMAX = 127  # of a rounded key or value


class KVCache:
    """Keys and values of every layer, `[layers, batch, kv_heads, capacity, d]`.

    `length` positions are filled; the decoder moves it on after a forward pass.

    Args:
        config: of the decoder.
        capacity: most positions.
        batch: sequences of one length.
        dtype: of what comes in and goes out.
        device: where it lies.
        rounded: hold keys and values in eight bits, each position of each head by its own largest value; half the
            memory, and each step widens what it reads.
    """

    def __init__(
        self, config: DecoderConfig, capacity: int, *, batch: int = 1, dtype: torch.dtype, device: torch.device,
        rounded: bool = False,
    ) -> None:  # fmt: skip
        shape = (config.num_layers, batch, config.num_kv_heads, capacity, config.head_dim)
        stored = torch.int8 if rounded else dtype
        self.keys = torch.empty(shape, dtype=stored, device=device)
        self.values = torch.empty(shape, dtype=stored, device=device)
        # [2, layers, batch, kv_heads, capacity, 1]: of keys, then of values
        self.scales = torch.empty((2, *shape[:-1], 1), dtype=dtype, device=device) if rounded else None
        self.capacity = capacity
        self.length = 0

    @staticmethod
    def bytes_per_position(config: DecoderConfig, dtype: torch.dtype, *, rounded: bool = False) -> int:
        """What one position of one sequence costs."""
        each = config.head_dim + dtype.itemsize if rounded else config.head_dim * dtype.itemsize
        return 2 * config.num_layers * config.num_kv_heads * each

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append `[batch, kv_heads, n, d]` at `length`; returns all keys and values up to the new end (as views,
        unless they are rounded)."""
        end = self.length + k.shape[2]
        new = slice(self.length, end)
        keys, values = self.keys[layer], self.values[layer]
        if self.scales is None:
            keys[:, :, new], values[:, :, new] = k, v
            return keys[:, :, :end], values[:, :, :end]
        key_scale, value_scale = self.scales[0, layer], self.scales[1, layer]
        keys[:, :, new], key_scale[:, :, new] = _rounded(k)
        values[:, :, new], value_scale[:, :, new] = _rounded(v)
        return keys[:, :, :end] * key_scale[:, :, :end], values[:, :, :end] * value_scale[:, :, :end]

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
        return self.keys.nbytes + self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def copied(self, length: int, capacity: int) -> KVCache:
        """A cache of its own with the first `length` positions of this one and room for `capacity`."""

        def grown(old: Tensor) -> Tensor:
            new = old.new_empty((*old.shape[:-2], capacity, old.shape[-1]))
            new[..., :length, :] = old[..., :length, :]
            return new

        other = object.__new__(KVCache)
        other.keys, other.values = grown(self.keys), grown(self.values)
        other.scales = None if self.scales is None else grown(self.scales)
        other.capacity, other.length = capacity, length
        return other

    def reset(self, length: int = 0) -> None:
        """Forget everything after the first `length` positions."""
        self.length = length


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 of the shape of x, and scales `[..., 1]` in its dtype."""
    scale = (x.abs().amax(-1, keepdim=True) / QMAX).clamp(min=torch.finfo(x.dtype).tiny)
    return (x / scale).round().clamp(-QMAX, QMAX).to(torch.int8), scale


class KVCacheBatch:
    """Caches of several requests, each of its own length, for one decode step of all.

    Products with weights see all rows at once; attention sees each row with its own cache.
    """

    def __init__(self, caches: Sequence[KVCache]) -> None:
        self.caches = caches
        self._places: BlockTable | None = None

    def attend(self, attend: Attend, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """As `KVCache.attend`, in one kernel for all of them where there is one; `[batch, heads, 1, d]`."""
        own = bf16_kernels(q, k)
        out = None if own is None else own.decode_attention(q, k, v, self._where(layer), layer)
        if out is not None:
            return out
        if len(self.caches) == 1:
            return self.caches[0].attend(attend, layer, q, k, v, None)
        rows = zip(self.caches, q.split(1), k.split(1), v.split(1), strict=True)
        return torch.cat([cache.attend(attend, layer, qi, ki, vi, None) for cache, qi, ki, vi in rows])

    def _where(self, layer: int) -> BlockTable:
        if self._places is None or layer == 0:  # a new step
            parts = ((cache.keys, cache.values, cache.scales, cache.length) for cache in self.caches)
            self._places = BlockTable(*zip(*parts, strict=True))
        return self._places

    def positions(self, n: int, device: torch.device) -> Tensor:
        """int64 `[batch, 1]`."""
        if len(self.caches) == 1:  # made on the device, without waiting for it
            return self.caches[0].positions(n, device)
        return torch.tensor([[cache.length] for cache in self.caches], device=device)

    def advance(self, n: int) -> None:
        """One more position in each."""
        for cache in self.caches:
            cache.advance(n)
