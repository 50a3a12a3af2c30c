"""The KV cache of a request: allocated once, written in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vita.config import DecoderConfig
from vita.kernels.cpu.bindings import bf16_kernels
from vita.kernels.cpu.block_table import BlockTable
from vita.kernels.cpu.float32 import attention_kernels
from vita.layers.attention import Attend

QMAX = 127  # largest int8 magnitude of a quantised key or value


class KVCache:
    """Keys and values of every layer, each `[layers, batch, kv_heads, capacity, d]`.

    The first `length` positions are filled; the decoder advances it after a forward pass.

    Args:
        config: of the decoder.
        capacity: maximum number of positions.
        batch: number of sequences, all of one length.
        dtype: of the keys and values that go in and come out.
        device: of the memory.
        quantized: store keys and values as int8, with one scale for each position of each head. Halves the memory of
            bfloat16; each step dequantises what it reads.

    Attributes:
        nbytes: of the allocated memory.
    """

    def __init__(
        self, config: DecoderConfig, capacity: int, *, batch: int = 1, dtype: torch.dtype, device: torch.device,
        quantized: bool = False,
    ) -> None:  # fmt: skip
        shape = (config.num_layers, batch, config.num_kv_heads, capacity, config.head_dim)
        stored = torch.int8 if quantized else dtype
        self.keys = torch.empty(shape, dtype=stored, device=device)
        self.values = torch.empty(shape, dtype=stored, device=device)
        # [2, layers, batch, kv_heads, capacity, 1]: scales of keys, then of values
        self.scales = torch.empty((2, *shape[:-1], 1), dtype=dtype, device=device) if quantized else None
        self.capacity = capacity
        self.length = 0
        self.nbytes = self._count_bytes()

    def _count_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    @staticmethod
    def bytes_per_position(config: DecoderConfig, dtype: torch.dtype, *, quantized: bool = False) -> int:
        """Bytes of one position of one sequence, over all layers."""
        per_head = config.head_dim + dtype.itemsize if quantized else config.head_dim * dtype.itemsize
        return 2 * config.num_layers * config.num_kv_heads * per_head

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append `[batch, kv_heads, n, d]` at `length`; returns all keys and values up to the new end.

        The result is a view, or, of a quantised cache or one of another dtype, a copy in the dtype of `k`.
        """
        end = self.length + k.shape[2]
        new = slice(self.length, end)
        keys, values = self.keys[layer], self.values[layer]
        if self.scales is None:
            keys[:, :, new], values[:, :, new] = k, v
            return keys[:, :, :end].to(k.dtype), values[:, :, :end].to(v.dtype)
        key_scale, value_scale = self.scales[0, layer], self.scales[1, layer]
        keys[:, :, new], key_scale[:, :, new] = _quantize(k)
        values[:, :, new], value_scale[:, :, new] = _quantize(v)
        return keys[:, :, :end] * key_scale[:, :, :end], values[:, :, :end] * value_scale[:, :, :end]

    def attend(self, attend: Attend, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Append to one layer and attend to all its positions: `[batch, heads, n, d]`."""
        keys, values = self.write(layer, k, v)
        return attend(q, keys, values, mask=mask, causal=mask is None and q.shape[2] > 1)

    def positions(self, n: int, device: torch.device) -> Tensor:
        """Positions of the next `n` rows: int64 `[1, n]`."""
        return torch.arange(self.length, self.length + n, device=device)[None]

    def advance(self, n: int) -> None:
        """Count `n` more positions as filled, after all layers have written them."""
        self.length += n

    def copy_prefix(self, length: int, capacity: int) -> KVCache:
        """A new cache of `capacity` positions that holds a copy of the first `length` of this one."""

        def copy(old: Tensor) -> Tensor:
            new = old.new_empty((*old.shape[:-2], capacity, old.shape[-1]))
            new[..., :length, :] = old[..., :length, :]
            return new

        other = object.__new__(KVCache)
        other.keys, other.values = copy(self.keys), copy(self.values)
        other.scales = None if self.scales is None else copy(self.scales)
        other.capacity, other.length = capacity, length
        other.nbytes = other._count_bytes()
        return other

    def reset(self, length: int = 0) -> None:
        """Discard all positions after the first `length`."""
        self.length = length


def _quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 of the shape of x, and scales `[..., 1]` in the dtype of x."""
    scale = (x.abs().amax(-1, keepdim=True) / QMAX).clamp(min=torch.finfo(x.dtype).tiny)
    return (x / scale).round().clamp(-QMAX, QMAX).to(torch.int8), scale


def block_table(caches: Sequence[KVCache]) -> BlockTable:
    """The caches as the kernels of a decode step read them.

    Raises:
        ValueError: one is full.
    """
    fields = ((cache.keys, cache.values, cache.scales, cache.length) for cache in caches)
    return BlockTable(*zip(*fields, strict=True))


class KVCacheBatch:
    """The caches of several requests, each of its own length, for one decode step.

    Linear layers see all rows at once; attention sees each row with its own cache.

    Args:
        caches: one a request, each with batch 1.
    """

    def __init__(self, caches: Sequence[KVCache]) -> None:
        self.caches = caches
        self._block_table: BlockTable | None = None

    def attend(self, attend: Attend, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """As `KVCache.attend`, in one native kernel where possible: `[requests, heads, 1, d]`."""
        for find in (bf16_kernels, attention_kernels):  # the first needs instructions that some processors do not have
            native = find(q, k)
            out = None if native is None else native.decode_attention(q, k, v, self._table(), layer)
            if out is not None:
                return out
        if len(self.caches) == 1:
            return self.caches[0].attend(attend, layer, q, k, v, None)
        rows = zip(self.caches, q.split(1), k.split(1), v.split(1), strict=True)
        return torch.cat([cache.attend(attend, layer, qi, ki, vi, None) for cache, qi, ki, vi in rows])

    def _table(self) -> BlockTable:
        """The block table of this step, built by its first layer."""
        if self._block_table is None:
            self._block_table = block_table(self.caches)
        return self._block_table

    def positions(self, n: int, device: torch.device) -> Tensor:
        """Each request's next position: int64 `[requests, 1]`."""
        if len(self.caches) == 1:  # made on the device, without a copy from the host
            return self.caches[0].positions(n, device)
        return torch.tensor([[cache.length] for cache in self.caches], device=device)

    def advance(self, n: int) -> None:
        """Count `n` more positions of each cache as filled."""
        self._block_table = None
        for cache in self.caches:
            cache.advance(n)


class KVCacheRagged:
    """Caches of several sequences that are prefilled together, each with its own number of new positions.

    Linear layers see the new rows of all sequences at once, `[1, total, H]`; attention sees each sequence alone.

    Args:
        caches: one a sequence.
        counts: new positions of each.
    """

    def __init__(self, caches: Sequence[KVCache], counts: Sequence[int]) -> None:
        self.caches, self.counts = caches, list(counts)

    def attend(self, attend: Attend, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """As `KVCache.attend`: `[1, heads, total, d]`."""
        parts = zip(self.caches, *(t.split(self.counts, dim=2) for t in (q, k, v)), strict=True)
        return torch.cat([cache.attend(attend, layer, qi, ki, vi, None) for cache, qi, ki, vi in parts], dim=2)

    def positions(self, n: int, device: torch.device) -> Tensor:
        """int64 `[1, total]`."""
        parts = zip(self.caches, self.counts, strict=True)
        return torch.cat([cache.positions(count, device) for cache, count in parts], dim=1)

    def advance(self, n: int) -> None:
        """Each sequence by its own count."""
        for cache, count in zip(self.caches, self.counts, strict=True):
            cache.advance(count)
