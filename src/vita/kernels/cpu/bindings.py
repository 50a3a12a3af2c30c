"""The CPU kernels as methods on tensors, and loading them once per process.

`kernels.cpu.compile` compiles and caches the library; `kernels.cpu.signatures` declares the C functions. Without a
compiler there are no kernels: callers use PyTorch operations, and the engine and `vita doctor` say so.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vita.kernels.cpu.block_table import BlockTable, address
from vita.kernels.cpu.compile import Loaded, Program, are_wanted, load_library, open_library
from vita.kernels.cpu.decode_layer import DecodeLayers
from vita.kernels.cpu.decoder_weights import LayerWeights
from vita.kernels.cpu.float32 import load_float32_kernels
from vita.kernels.cpu.signatures import InterfaceError, bind

log = logging.getLogger("vita")
_NAMES = (
    "gemv_bf16", "gemm_small", "gemv_int8", "quantize_activations", "gemv_int4", "gemm_dynamic_int8", "flash_attention",
    "decode_attention", "decode_layer", "rope", "rms_norm", "silu_mul", "helpers",
)  # fmt: skip
SOURCES = tuple(Path(__file__).with_name(f"{name}.c") for name in _NAMES)
_SHARED = (
    "floats", "helpers", "int4", "gemm_dynamic_int8_avx2", "gemm_dynamic_int8_avx512", "linear", "rows", "splits",
    "threads", "vectors", "vectors_f32", "weights",
)  # fmt: skip
HEADERS = tuple(Path(__file__).with_name(f"{name}.h") for name in _SHARED)
PROGRAM = Program(SOURCES, HEADERS)
GROUP_SIZE = 64  # weights that share one scale in the stored int4 format; compared with the C constant when loading
SUPPORTED_DTYPES = (torch.float32, torch.bfloat16)  # of x and of the result
INT8_ROWS = 16  # rows up to which int8 weights are multiplied in float32: exact, and as fast as dequantising up to 8
# Time without these kernels / time with them, measured (docs/benchmarks.md): one token, and a prompt of 256 positions.
SLOWER = {"bfloat16": (1.4, 1.0), "int8": (1.1, 1.6), "int4": (130, 6.5)}


class Kernels:
    """The compiled functions on CPU tensors. Tensors are contiguous unless a method says otherwise.

    A method returns None, or False, where the processor lacks the instructions or another way is faster; the caller
    then uses PyTorch operations. The C library computes the size of every workspace and knows every limit of a kernel.

    Args:
        library: compiled from `PROGRAM`; its functions are declared here.

    Raises:
        InterfaceError: a function is missing, or the library was built for another group size.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        bind(library)
        size = library.vita_group_size()
        if size != GROUP_SIZE:
            raise InterfaceError(f"the compiled library has groups of {size} weights, the int4 format has {GROUP_SIZE}")
        self._library = library
        self._max_rows_bf16: int = library.vita_gemm_small_max_rows_bf16()
        self._max_rows_int8: int = library.vita_gemm_small_max_rows_int8()

    def workspace(self, nbytes: int) -> Tensor:
        """Uninitialised memory for one call, uint8 `[nbytes]`."""
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu")

    def begin_helpers(self, count: int) -> int:
        """Share this thread's GEMVs with helper threads until `end_helpers`. Returns how many there are; 0: none."""
        return int(self._library.vita_helpers_begin(count))

    def end_helpers(self) -> None:
        """Returns when no helper reads weights any more."""
        self._library.vita_helpers_end()

    def chunks_of_helpers(self) -> int:
        """Parts of GEMVs that helper threads have computed in this process."""
        return int(self._library.vita_helpers_chunks())

    def gemm_bf16(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """`x · wᵀ + b` for few rows, accumulated in float32; None for more rows than the kernels support.

        Args:
            x: bfloat16 `[rows, in]`, any strides.
            weight: bfloat16 `[out, in]`.
            bias: bfloat16 `[out]`, or None.

        Returns:
            bfloat16 `[rows, out]`. From two rows on, a row is bit-identical whatever the other rows are.
        """
        (rows, n_in), n_out = x.shape, weight.shape[0]
        if not n_in or not 0 < rows <= max(1, self._max_rows_bf16):
            return None
        out, x = x.new_empty(rows, n_out), x.contiguous()
        if rows == 1:
            self._library.vita_gemv_bf16(address(weight), address(x), address(bias), address(out), n_out, n_in)
        else:
            self._gemm_small(x, weight, None, bias, out)
        return out

    def _gemm_small(self, x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, out: Tensor) -> None:
        (rows, n_in), n_out = x.shape, weight.shape[0]
        self._library.vita_gemm_small(
            address(weight), address(scale), address(x), address(bias), address(out), rows, n_out, n_in
        )

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor) -> bool:
        """Rotary position embedding of `x`, in place; False, with `x` unchanged, where the kernel does not apply.

        Args:
            x: bfloat16 `[batch, n, heads, d]`.
            cos, sin: bfloat16 `[batch or 1, n, 1, d]`.
        """
        heads, d = x.shape[2:]
        if not self._library.vita_rope_supports(d) or not all(t.is_contiguous() for t in (x, cos, sin)):
            return False
        rows, angles = x.shape[0] * x.shape[1], cos.shape[0] * cos.shape[1]
        self._library.vita_rope(address(x), address(cos), address(sin), rows, heads, d, angles)
        return True

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last dimension: bfloat16 `[..., n]` and `[n]` to `[..., n]`."""
        out, n = torch.empty_like(x), weight.shape[0]
        self._library.vita_rms_norm(address(x), address(weight), address(out), x.numel() // n, n, eps)
        return out

    def silu_mul(self, gate: Tensor, up: Tensor) -> bool:
        """`silu(gate) · up` of two bfloat16 tensors, into `gate`; False, with `gate` unchanged, if not contiguous."""
        usable = gate.is_contiguous() and up.is_contiguous()
        if usable:
            self._library.vita_silu_mul(address(gate), address(up), gate.numel())
        return usable

    def gemm_int8(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor | None:
        """`x · (w · scale)ᵀ + b` for few rows, accumulated in float32; None for more rows than the kernels support.

        Args:
            x: float32 or bfloat16 `[rows, in]`.
            weight: int8 `[out, in]`.
            scale: bfloat16 `[out]`.
            bias: `[out]` in the dtype of x, or None.

        Returns:
            `[rows, out]` in the dtype of x. A row is bit-identical whatever the other rows are.
        """
        (rows, n_in), n_out = x.shape, weight.shape[0]
        if not rows or not n_in:
            return None
        if x.dtype == torch.bfloat16 and rows <= self._max_rows_int8:
            out = x.new_empty(rows, n_out)
            self._gemm_small(x, weight, scale, bias, out)
            return out
        if rows > INT8_ROWS:
            return None
        out, workspace = x.new_empty(rows, n_out), self.workspace(self._library.vita_gemv_int8_workspace(rows, n_in))
        self._library.vita_gemv_int8(
            address(weight), address(scale), address(x), address(bias), address(out), address(workspace),
            rows, n_out, n_in, _is_bf16(x),
        )  # fmt: skip
        return out

    def int8_dequantize(self, weight: Tensor, scale: Tensor, out: Tensor) -> None:
        """int8 weights `[out, in]` with scales `[out]` as bfloat16, into `out` `[out, in]`."""
        self._library.vita_dequantize_int8(address(weight), address(scale), address(out), *out.shape)

    def gemm_int4(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """`x · wᵀ + b` with x quantised to int8, a weight row read once for all rows of x.

        Args:
            x: float32 or bfloat16 `[rows, in]`.
            weight: uint8 `[out, in / 2]`.
            scale: bfloat16 `[out, in / 64]`.
            bias: `[out]` in the dtype of x, or None.

        Returns:
            `[rows, out]` in the dtype of x.
        """
        (rows, n_in), n_out = x.shape, weight.shape[0]
        out = x.new_empty(rows, n_out)
        if not rows:  # the kernels prepare blocks of rows, at least one
            return out
        workspace = self.workspace(self._library.vita_gemv_int4_workspace(rows, n_in))
        self._library.vita_gemv_int4(
            address(weight), address(scale), address(x), address(bias), address(out), address(workspace),
            rows, n_out, n_in, _is_bf16(x),
        )  # fmt: skip
        return out

    def int4_dequantize(self, weight: Tensor, scale: Tensor, out: Tensor) -> None:
        """int4 weights `[out, in / 2]` with scales `[out, in / 64]` as bfloat16, into `out` `[out, in]`."""
        self._library.vita_dequantize_int4(address(weight), address(scale), address(out), *out.shape)

    def gemm_dynamic_int8(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor | None:
        """`x · wᵀ + b` for many rows, with x quantised to int8 and integer products; None where it does not apply.

        That is: AMX (a GEMM on dequantised weights is faster), missing instructions, or `in` not a multiple of 64.

        Args:
            x, bias: as for `gemm_int4`.
            weight, scale: as for `gemm_int4` or for `gemm_int8`.
        """
        (rows, n_in), n_out = x.shape, weight.shape[0]
        bits = 8 if weight.dtype == torch.int8 else 4
        if not self._library.vita_gemm_dynamic_int8_supports(bits, n_in):
            return None
        threads = torch.get_num_threads()
        workspace = self.workspace(self._library.vita_gemm_dynamic_int8_workspace(rows, n_in, threads))
        out = x.new_empty(rows, n_out)
        self._library.vita_gemm_dynamic_int8(
            address(weight), address(scale), address(x), address(bias), address(out), address(workspace),
            rows, n_out, n_in, _is_bf16(x), bits, threads,
        )  # fmt: skip
        return out

    def flash_attention(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor | None:
        """Softmax attention without a mask; None where PyTorch's kernel is faster or the shapes are not supported.

        Args:
            q: bfloat16 `[batch, heads, queries, d]`, d 64 or 128 and contiguous; other dimensions have any strides.
            k, v: bfloat16 `[batch, kv_heads, keys, d]`, strides as for q.
            causal: the queries are the last of the keys, and each sees no key after its own.
            scale: factor on the scores.

        Returns:
            `[batch, heads, queries, d]`, in memory as `[batch, queries, heads, d]`.
        """
        (batch, heads, queries, d), (kv_heads, keys) = q.shape, k.shape[1:3]
        same = k.shape == v.shape == (batch, kv_heads, keys, d) and v.dtype == q.dtype
        if not same or not self._library.vita_flash_attention_supports(d):
            return None
        if any(x.stride(-1) != 1 for x in (q, k, v)) or (causal and queries > keys):
            return None
        out = q.new_empty(batch, queries, heads, d)
        workspace = self.workspace(self._library.vita_flash_attention_workspace(batch, kv_heads, keys, d))
        strides = (ctypes.c_int64 * 9)(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
        self._library.vita_flash_attention(
            address(q), address(k), address(v), address(out), address(workspace), strides, batch, heads, kv_heads,
            queries, keys, d, int(causal), scale,
        )  # fmt: skip
        return out.transpose(1, 2)

    def decode_layers(self, layers: Sequence[LayerWeights], head_dim: int, eps: float) -> DecodeLayers | None:
        """The layers of a decode step in bfloat16; None where a kernel is missing."""
        found = DecodeLayers(self._library, self.workspace, layers, head_dim, eps)
        return found if found.max_rows else None

    @property
    def has_decode_attention(self) -> bool:
        """Whether this processor has the instructions for `decode_attention`."""
        return bool(self._library.vita_decode_attention_supports(64))

    def decode_attention(self, q: Tensor, k: Tensor, v: Tensor, caches: BlockTable, layer: int) -> Tensor | None:
        """Append one position to every cache and attend to all of it; None where the kernel does not apply.

        Args:
            q: bfloat16 `[requests, heads, 1, d]`, any strides.
            k, v: bfloat16 `[requests, kv_heads, 1, d]`, any strides.
            caches: one per request, all of one model.
            layer: index of the layer in the caches.

        Returns:
            `[requests, heads, 1, d]`. A row is bit-identical whatever the other requests are.
        """
        (requests, heads, _, d), kv_heads = q.shape, k.shape[1]
        supported = caches.is_bf16 and self._library.vita_decode_attention_supports(d)
        if not supported or not caches.matches(q, k, v):
            return None
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        nbytes = self._library.vita_decode_attention_workspace(caches.lengths, requests, heads, kv_heads, d)
        out, workspace = torch.empty_like(q), self.workspace(nbytes)
        self._library.vita_decode_attention(
            address(q), address(k), address(v), caches.keys, caches.values, caches.scales, caches.lengths,
            caches.capacities, address(out), address(workspace), requests, heads, kv_heads, d, caches.layers, layer,
            d**-0.5,
        )  # fmt: skip
        return out


def _is_bf16(x: Tensor) -> int:
    """The flag of floats.h."""
    return int(x.dtype == torch.bfloat16)


def kernels() -> Kernels | None:
    """The kernels, or None. The engine loads them, and compiles them if need be, before the first request."""
    return _loaded()[0]


@contextmanager
def gemv_helpers(count: int) -> Iterator[int]:
    """GEMVs of this thread are shared with `count` helper threads, which no GEMV waits for (helpers.c).

    Results are equal to the bit. Weights must not be freed inside; the end waits until no helper reads them.

    Yields:
        How many helpers there are: none without kernels, if no kernel was needed so far, on systems other than Linux,
        and while another thread has them.
    """
    found = _loaded()[0] if count and _loaded.cache_info().currsize else None
    started = 0 if found is None else found.begin_helpers(count)
    try:
        yield started
    finally:
        if found is not None and started:
            found.end_helpers()


def bf16_kernels(x: Tensor, weight: Tensor) -> Kernels | None:
    """The kernels, if x and weight are bfloat16 on a CPU and gradients are off."""
    both = x.dtype == weight.dtype == torch.bfloat16 and x.device.type == "cpu"
    return kernels() if both and not torch.is_grad_enabled() else None


def prepare_kernels(device: torch.device, dtype: torch.dtype, scheme: str | None) -> None:
    """Load the kernels that a model will use; compile them if this machine has not yet. One thread at a time does so.

    Without kernels, one warning says why, how much slower that is and what to do.

    Args:
        device: of the model; only CPUs use these kernels.
        dtype: of the model.
        scheme: quantisation of its weights, such as "int4+encoders", or None.

    Raises:
        RequestError: `VITA_KERNELS` is neither `off` nor a folder.
    """
    bits = scheme.split("+")[0] if scheme else None
    used = dtype in SUPPORTED_DTYPES or bits == "int4" if bits else dtype == torch.bfloat16
    are_wanted()  # checks VITA_KERNELS for every model, even one that uses no kernels
    if device.type == "cpu" and dtype == torch.float32:
        load_float32_kernels()
    if device.type != "cpu" or not used:
        return
    with _PREPARING:
        made, found = _loaded()
    if dtype == torch.bfloat16 and made is not None and not made.has_decode_attention:
        load_float32_kernels()  # they attend instead
    if found.library is None and found.wanted:
        log.warning("native kernels: %s; %s", found.reason, "; ".join(filter(None, (slowdown(bits), found.fix))))
    elif found.fix:
        log.warning("native kernels: %s; %s", found.reason, found.fix)


def slowdown(bits: str | None = None) -> str:
    """How much slower PyTorch operations are, in words, for `int4`, `int8` or (None) bfloat16 weights."""
    name = bits or "bfloat16"
    token, prompt = SLOWER[name]
    sentence = f"without them a token takes about {token:g} times as long in {name}"
    return sentence + (f", a prompt of 256 positions {prompt:g} times" if prompt > 1 else "")


def compiled(*, retry: bool = False) -> Loaded:
    """The library and where it comes from, or why there is none.

    Args:
        retry: compile again after a recent failure.

    Raises:
        RequestError: `VITA_KERNELS` is neither `off` nor a folder.
    """
    return _open(retry=retry)[1]


_PREPARING = threading.Lock()


def _open(*, retry: bool = False) -> tuple[Kernels | None, Loaded]:
    return open_library(load_library(PROGRAM, retry=retry), Kernels)


@lru_cache(maxsize=1)
def _loaded() -> tuple[Kernels | None, Loaded]:
    """Once per process, so that a request never compiles."""
    kernels, found = _open()
    log.info("native kernels: %s", found.reason)
    return kernels, found
