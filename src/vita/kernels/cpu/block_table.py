"""Addresses and sizes of the KV caches of a batch, as the C kernels read them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor


class BlockTable:
    """Addresses and sizes of the KV caches of some requests, as the kernels of a decode step read them.

    The table keeps the tensors alive, for a kernel reads and writes through their addresses.

    Args:
        keys, values: one of each per request, bfloat16, int8 or float32 `[layers, 1, kv_heads, capacity, d]`.
        scales: per request bfloat16 `[2, layers, 1, kv_heads, capacity, 1]`, or None for a cache that is not int8.
        lengths: filled positions, less than the capacity.

    Attributes:
        is_bf16: they are bfloat16, or int8 with scales.
        plain_dtype: of all of them, if it is one and none has scales.

    Raises:
        ValueError: a cache is full.
    """

    def __init__(
        self, keys: Sequence[Tensor], values: Sequence[Tensor], scales: Sequence[Tensor | None], lengths: Sequence[int]
    ) -> None:
        capacities = [t.shape[-2] for t in keys]
        if any(length >= capacity for length, capacity in zip(lengths, capacities, strict=True)):
            raise ValueError("a KV cache is full")
        self._tensors = (tuple(keys), tuple(values), tuple(scales))
        addresses, integers = ctypes.c_void_p * len(keys), ctypes.c_int64 * len(keys)
        self.keys, self.values = addresses(*map(address, keys)), addresses(*map(address, values))
        self.scales = addresses(*map(address, scales))
        self.lengths, self.capacities, self.layers = integers(*lengths), integers(*capacities), len(keys[0])
        known = {(torch.bfloat16, None), (torch.int8, torch.bfloat16)}
        dtypes = {(k.dtype, None if s is None else s.dtype) for k, s in zip(keys, scales, strict=True)}
        same = (
            k.shape == v.shape and k.dtype == v.dtype and k.shape[1] == 1 for k, v in zip(keys, values, strict=True)
        )
        alike = all(same) and len({k.shape[:3] for k in keys}) == 1
        self.is_bf16 = alike and dtypes <= known
        self.plain_dtype = keys[0].dtype if alike and dtypes == {(keys[0].dtype, None)} else None

    def matches(self, q: Tensor, k: Tensor, v: Tensor) -> bool:
        """Whether q `[requests, heads, 1, d]`, k and v `[requests, kv_heads, 1, d]` are one new position of each."""
        (requests, heads, n, _), kv_heads = q.shape, k.shape[1]
        return n == 1 and heads % kv_heads == 0 and k.shape == v.shape and requests == len(self.lengths)


def address(tensor: Tensor | None) -> int | None:
    """Of the first value; None is a null pointer."""
    return None if tensor is None else tensor.data_ptr()
