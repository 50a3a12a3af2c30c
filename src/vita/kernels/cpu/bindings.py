"""Our kernels for CPUs: which there are, and calling them.

Owns the C interface and the one time a process loads it; compiling and caching are `kernels.cpu.compile`'s. Without a
compiler there is no kernel, and callers take PyTorch's own operations; the engine and `vita doctor` say so.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vita.kernels.cpu.compile import Loaded, Program, are_wanted, load_library

log = logging.getLogger("vita")
_NAMES = (
    "gemv_bf16", "gemm_small", "gemv_int8", "quantize_activations", "gemv_int4", "gemm_dynamic_int8", "flash_attention",
    "decode_attention", "rope", "rms_norm", "silu_mul",
)  # fmt: skip
SOURCES = tuple(Path(__file__).with_name(f"{name}.c") for name in _NAMES)
_SHARED = ("floats", "int4", "gemm_dynamic_int8_avx2", "gemm_dynamic_int8_avx512", "rows", "vectors")
HEADERS = tuple(Path(__file__).with_name(f"{name}.h") for name in _SHARED)
PROGRAM = Program(SOURCES, HEADERS)
GROUP = 64  # as in int4.h
PANEL, TILE = 32, 6  # as in gemm_dynamic_int8.c and the larger of its two headers
KEYS, HEAD_WIDTHS = 256, (64, 128)  # as in flash_attention.c
SHARED, WIDEST_HEAD = 8, 256  # as HEADS and WIDEST in decode_attention.c, whose KEYS are flash_attention.c's
FORMATS = (torch.float32, torch.bfloat16)  # of x and of what comes out
INT8_ROWS = 16  # summed in float32, so that each row of a step is what it is alone; from 9 on widening is a bit faster
# Times as long as with our kernels, measured (docs/benchmarks.md): a token, and a prompt of 256 positions.
SLOWER = {"bfloat16": (1.4, 1.0), "int8": (1.1, 1.6), "int4": (130, 6.5)}


class Kernels:
    """The compiled functions, on CPU tensors: contiguous ones, where nothing else is said.

    What a processor has no instructions for, or something faster, is "not there": its method says so.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._most_bf16_rows: int = library.vita_most_bf16_rows()
        self._most_int8_rows: int = library.vita_most_int8_rows()

    def bf16_product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """`x · wᵀ + b` of few rows, summed in float32; None for more rows than it is made for.

        Args:
            x: bfloat16 `[rows, in]`.
            weight: bfloat16 `[out, in]`.
            bias: bfloat16 `[out]`, or None.

        Returns:
            bfloat16 `[rows, out]`; of two rows or more, each is what it would be in other company, to the bit.
        """
        (rows, width), channels = x.shape, weight.shape[0]
        if not width or not 0 < rows <= max(1, self._most_bf16_rows):
            return None
        out, x = x.new_empty(rows, channels), x.contiguous()
        if rows == 1:
            places, sizes = (_at(weight), _at(x), _at(bias), _at(out)), (_size(channels), _size(width))
            self._library.vita_bf16_row(*places, *sizes)
        else:
            self._few_rows(x, weight, None, bias, out)
        return out

    def _few_rows(self, x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, out: Tensor) -> None:
        (rows, width), channels = x.shape, weight.shape[0]
        sizes = _size(rows), _size(channels), _size(width)
        self._library.vita_few_rows(_at(weight), _at(scale), _at(x), _at(bias), _at(out), *sizes)

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor) -> bool:
        """Rotary positions of `x`, in place; False, and nothing done, where there is no kernel.

        Args:
            x: bfloat16 `[batch, n, heads, d]`.
            cos, sin: bfloat16 `[batch or 1, n, 1, d]`.
        """
        heads, width = x.shape[2:]
        there = bool(self._library.vita_rotates()) and width % 32 == 0
        if not there or not all(t.is_contiguous() for t in (x, cos, sin)):
            return False
        rows, angles = x.shape[0] * x.shape[1], cos.shape[0] * cos.shape[1]
        sizes = _size(rows), _size(heads), _size(width), _size(angles)
        self._library.vita_rotate(_at(x), _at(cos), _at(sin), *sizes)
        return True

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last dimension: contiguous bfloat16 `[..., n]` and `[n]`."""
        out, width = torch.empty_like(x), weight.shape[0]
        rows = _size(x.numel() // width)
        self._library.vita_rms_norm(_at(x), _at(weight), _at(out), rows, _size(width), ctypes.c_double(eps))
        return out

    def silu_mul(self, gate: Tensor, up: Tensor) -> bool:
        """`silu(gate) · up` into `gate`, two bfloat16 tensors; False, and nothing done, where there is no kernel."""
        there = bool(self._library.vita_gates()) and gate.is_contiguous() and up.is_contiguous()
        if there:
            self._library.vita_silu_times(_at(gate), _at(up), _size(gate.numel()))
        return there

    def int8_product(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor | None:
        """`x · (w · scale)ᵀ + b` of few rows, summed in float32; None for more rows than it is made for.

        Args:
            x: float32 or bfloat16 `[rows, in]`, contiguous.
            weight: int8 `[out, in]`.
            scale: bfloat16 `[out]`.
            bias: `[out]` in the dtype of x, or None.

        Returns:
            `[rows, out]` in the dtype of x; each row is what it would be alone, to the bit.
        """
        (rows, width), channels = x.shape, weight.shape[0]
        if not rows or not width:
            return None
        if x.dtype == torch.bfloat16 and rows <= self._most_int8_rows:
            out = x.new_empty(rows, channels)
            self._few_rows(x, weight, scale, bias, out)
            return out
        if rows > INT8_ROWS:
            return None
        out, room = x.new_empty(rows, channels), x.new_empty(rows, width, dtype=torch.float32)
        self._library.vita_int8_product(
            _at(weight), _at(scale), _at(x), _at(bias), _at(out), _at(room),
            _size(rows), _size(channels), _size(width), _half(x),
        )  # fmt: skip
        return out

    def int8_dequantize(self, weight: Tensor, scale: Tensor, out: Tensor) -> None:
        """Weights as bfloat16 into `out`, `[out, in]`."""
        call = self._library.vita_int8_widen
        call(_at(weight), _at(scale), _at(out), _size(out.shape[0]), _size(out.shape[1]))

    def int4_product(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """`x · wᵀ + b` with x rounded to eight bits: `[rows, in]` to `[rows, out]` in the dtype of x.

        Args:
            x: float32 or bfloat16 `[rows, in]`.
            weight: uint8 `[out, in / 2]`.
            scale: bfloat16 `[out, in / 64]`.
            bias: `[out]` in the dtype of x, or None.
        """
        (rows, width), channels = x.shape, weight.shape[0]
        room = x.new_empty(rows * (width + 8 * (width // GROUP)), dtype=torch.uint8)
        out = x.new_empty(rows, channels)
        sizes = _size(rows), _size(channels), _size(width)
        self._library.vita_int4_product(
            _at(weight), _at(scale), _at(x), _at(bias), _at(out), _at(room), *sizes, _half(x)
        )
        return out

    def many_rows(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor | None:
        """The same for many rows, every weight unpacked once for all of them; None where widening it is faster.

        Args:
            x, bias: as for `int4_product`; a width that is no multiple of 64 gets None.
            weight, scale: as for `int4_product` or for `int8_product`.
        """
        (rows, width), channels, groups = x.shape, weight.shape[0], x.shape[1] // GROUP
        bits = 8 if weight.dtype == torch.int8 else 4
        if not self._library.vita_has_many_rows(_size(bits)) or width % GROUP or not width:
            return None
        threads = torch.get_num_threads()
        panels, tiles = threads * PANEL * (width + 4 * groups), -(-rows // TILE) * TILE
        room = x.new_empty(panels + (rows + tiles) * (width + 8 * groups), dtype=torch.uint8)
        out = x.new_empty(rows, channels)
        sizes = _size(rows), _size(channels), _size(width)
        self._library.vita_many_rows(
            _at(weight), _at(scale), _at(x), _at(bias), _at(out), _at(room), *sizes, _half(x), _size(bits),
            _size(threads),
        )  # fmt: skip
        return out

    def int4_dequantize(self, weight: Tensor, scale: Tensor, out: Tensor) -> None:
        """Weights as bfloat16 into `out`, `[out, in]`."""
        call = self._library.vita_int4_widen
        call(_at(weight), _at(scale), _at(out), _size(out.shape[0]), _size(out.shape[1]))

    def attention(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor | None:
        """Softmax attention without a mask; None where PyTorch's own is faster, or there are no such instructions.

        Args:
            q: bfloat16 `[batch, heads, queries, d]`, d 64 or 128 and in one piece; any strides before it.
            k, v: `[batch, groups, keys, d]`, the same.
            causal: the queries are the last of the keys, and see no key behind their own.
            scale: factor on the scores.

        Returns:
            `[batch, heads, queries, d]`, in memory as `[batch, queries, heads, d]`.
        """
        (batch, heads, queries, width), (groups, keys) = q.shape, k.shape[1:3]
        alike = k.shape == v.shape == (batch, groups, keys, width) and v.dtype == q.dtype
        if not alike or width not in HEAD_WIDTHS or not self._library.vita_attends():
            return None
        if any(x.stride(-1) != 1 for x in (q, k, v)) or (causal and queries > keys):
            return None
        out = q.new_empty(batch, queries, heads, width)
        room = q.new_empty(2 * batch * groups * -(-keys // KEYS) * KEYS * width)
        strides = (ctypes.c_int64 * 9)(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
        self._library.vita_attention(
            _at(q), _at(k), _at(v), _at(out), _at(room), strides, _size(batch), _size(heads), _size(groups),
            _size(queries), _size(keys), _size(width), _size(causal), ctypes.c_double(scale),
        )  # fmt: skip
        return out.transpose(1, 2)

    def step(self, q: Tensor, k: Tensor, v: Tensor, caches: BlockTable, layer: int) -> Tensor | None:
        """One position more in every cache, and attention to all that is then there; None where there is no kernel.

        Args:
            q: bfloat16 `[requests, heads, 1, d]`.
            k, v: `[requests, groups, 1, d]`.
            caches: as many, of one model.
            layer: of theirs.

        Returns:
            `[requests, heads, 1, d]`; each request's row is what it would be alone, to the bit.
        """
        (requests, heads, n, width), groups = q.shape, k.shape[1]
        if (
            not self._library.vita_steps()
            or not caches.supported
            or width % 32
            or width > WIDEST_HEAD
            or heads % groups
        ):
            return None
        if n != 1 or k.shape != v.shape or requests != len(caches.lengths):
            return None
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        pieces = requests * groups * -(-heads // groups // SHARED) * -(-(max(caches.lengths) + 1) // KEYS)
        out, room = torch.empty_like(q), q.new_empty(pieces * SHARED * (2 + width), dtype=torch.float32)
        self._library.vita_step(
            _at(q), _at(k), _at(v), caches.keys, caches.values, caches.scales, caches.lengths, caches.capacities,
            _at(out), _at(room), _size(requests), _size(heads), _size(groups), _size(width), _size(caches.layers),
            _size(layer), ctypes.c_double(width**-0.5),
        )  # fmt: skip
        return out


class BlockTable:
    """Where caches of keys and values lie in memory, as `Kernels.step` wants to know it.

    `supported` says whether they are of the kinds it knows.

    Args:
        keys, values: one of each a request, bfloat16 or int8 `[layers, 1, groups, capacity, d]`, kept alive by the
            caller.
        scales: bfloat16 `[2, layers, 1, groups, capacity, 1]` a request, or None where the dtype is bfloat16.
        lengths: positions filled, fewer than the capacity.
    """

    def __init__(
        self, keys: Sequence[Tensor], values: Sequence[Tensor], scales: Sequence[Tensor | None], lengths: Sequence[int]
    ) -> None:
        capacities = [t.shape[-2] for t in keys]
        if any(length >= capacity for length, capacity in zip(lengths, capacities, strict=True)):
            raise ValueError("a cache of keys and values is full")
        pointers, numbers = ctypes.c_void_p * len(keys), ctypes.c_int64 * len(keys)
        self.keys, self.values = pointers(*(t.data_ptr() for t in keys)), pointers(*(t.data_ptr() for t in values))
        self.scales = pointers(*(None if t is None else t.data_ptr() for t in scales))
        self.lengths, self.capacities, self.layers = numbers(*lengths), numbers(*capacities), len(keys[0])
        known = (torch.bfloat16, None), (torch.int8, torch.bfloat16)
        kinds = ((k.dtype, None if s is None else s.dtype) for k, s in zip(keys, scales, strict=True))
        alike = (
            k.shape == v.shape and k.dtype == v.dtype and k.shape[1] == 1 for k, v in zip(keys, values, strict=True)
        )
        self.supported = all(kind in known for kind in kinds) and all(alike) and len({k.shape[:3] for k in keys}) == 1


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _half(x: Tensor) -> ctypes.c_int64:
    """Which of the two formats that floats.h knows."""
    return ctypes.c_int64(x.dtype == torch.bfloat16)


def _size(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


def kernels() -> Kernels | None:
    """The kernels; None where there are none. The engine has them loaded, and compiled if need be, before a request."""
    return _loaded()[0]


def bf16_kernels(x: Tensor, weight: Tensor) -> Kernels | None:
    """The kernels, if x and a weight are bfloat16 on a CPU and nothing is to be differentiated."""
    half = x.dtype == weight.dtype == torch.bfloat16 and x.device.type == "cpu"
    return kernels() if half and not torch.is_grad_enabled() else None


def prepare_kernels(device: torch.device, dtype: torch.dtype, scheme: str | None) -> None:
    """Load the kernels that a model will use, compiling them if this machine has not yet; at most one thread does.

    Where there are none, one warning says so, how much slower that is and what to do.

    Args:
        device: of the model; only CPUs have these kernels.
        dtype: of the model.
        scheme: in which its weights are rounded, such as "int4+encoders", or None.

    Raises:
        RequestError: `VITA_KERNELS` is neither `off` nor a folder.
    """
    bits = scheme.split("+")[0] if scheme else None
    uses = dtype in FORMATS or bits == "int4" if bits else dtype == torch.bfloat16
    are_wanted()  # for every model, so that a mistake is never passed over
    if device.type != "cpu" or not uses:
        return
    with _PREPARING:
        _, found = _loaded()
    if found.library is None and found.wanted:
        log.warning("our own kernels: %s; %s", found.reason, "; ".join(filter(None, (slowdown(bits), found.fix))))
    elif found.fix:
        log.warning("our own kernels: %s; %s", found.reason, found.fix)


def slowdown(bits: str | None = None) -> str:
    """How much slower PyTorch's own operations are, in words; for weights in `int4`, `int8` or, None, in bfloat16."""
    form = bits or "bfloat16"
    token, prompt = SLOWER[form]
    said = f"without them a token takes about {token:g} times as long in {form}"
    return said + (f", a prompt of 256 positions {prompt:g} times" if prompt > 1 else "")


def compiled(*, retry: bool = False) -> Loaded:
    """The library and where it comes from, or why there is none; `retry` compiles again what failed a short time ago.

    Raises:
        RequestError: `VITA_KERNELS` is neither `off` nor a folder.
    """
    return load_library(PROGRAM, retry=retry)


_PREPARING = threading.Lock()


@lru_cache(maxsize=1)
def _loaded() -> tuple[Kernels | None, Loaded]:
    """Once a process, so that a request finds what is there, or that there is nothing, and never compiles."""
    found = compiled()
    log.info("our own kernels: %s", found.reason)
    return (Kernels(found.library) if found.library else None), found
