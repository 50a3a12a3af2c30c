"""Memory-bound CUDA kernels: RMSNorm, RoPE, SwiGLU, int4 dequantisation, embedding lookup.

Each reads every value once and writes it once, in one launch instead of PyTorch's four to six.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements per program


class TritonElementwise:
    """The elementwise kernels of `kernels.cpu.bindings.Kernels`, for CUDA tensors of any float dtype."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last dimension: contiguous `[..., n]` and `[n]`."""
        out, width = torch.empty_like(x), weight.shape[0]
        with torch.cuda.device_of(x):
            _rms_norm_kernel[(x.numel() // width,)](
                x, weight, out, width, eps, BLOCK=triton.next_power_of_2(width), num_warps=8
            )
        return out

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor) -> bool:
        """Rotate contiguous `x` `[batch, n, heads, d]` in place; cos and sin `[batch or 1, n, 1, d]`.

        False, and `x` unchanged, if a tensor is not contiguous or d is not a power of two.
        """
        heads, head_dim = x.shape[2:]
        if not all(t.is_contiguous() for t in (x, cos, sin)) or head_dim & (head_dim - 1):
            return False
        rows, table_rows = x.shape[0] * x.shape[1], cos.shape[0] * cos.shape[1]
        with torch.cuda.device_of(x):
            _rope_kernel[(rows, heads)](x, cos, sin, heads, table_rows, HALF=head_dim // 2, num_warps=1)
        return True

    def silu_mul(self, gate: Tensor, up: Tensor) -> bool:
        """`silu(gate) * up` into `gate`; False, and `gate` unchanged, if a tensor is not contiguous."""
        supported = gate.is_contiguous() and up.is_contiguous()
        if supported:
            with torch.cuda.device_of(gate):
                _silu_mul_kernel[(triton.cdiv(gate.numel(), BLOCK),)](gate, up, gate.numel(), BLOCK=BLOCK, num_warps=4)
        return supported


def int4_dequantize(weight: Tensor, scale: Tensor, out: Tensor) -> None:
    """Dequantise contiguous int4 weights (`quant.int4`) into contiguous `out` `[out, in]`, any float dtype."""
    groups = scale.numel()
    with torch.cuda.device_of(weight):
        _int4_dequantize_kernel[(triton.cdiv(groups, BLOCK // 32),)](
            weight, scale, out, groups, GROUPS=BLOCK // 32, num_warps=4
        )


def embedding(table: Tensor, tokens: Tensor, out: Tensor) -> None:
    """Look up rows of an embedding table on the device or in pinned host memory (`kernels.triton.pinned`).

    Args:
        table: `[vocab, H]`, contiguous.
        tokens: int64 `[rows]`.
        out: `[rows, H]`, contiguous.
    """
    rows, width = out.shape
    _embedding_kernel[(triton.cdiv(width, BLOCK), rows)](table, tokens, out, width, BLOCK=BLOCK, num_warps=4)


@triton.jit
def _embedding_kernel(table, tokens, out, width, BLOCK: tl.constexpr):
    at, row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    mask = at < width
    values = tl.load(table + tl.load(tokens + row) * width + at, mask=mask, other=0.0)
    tl.store(out + row * width + at, values, mask=mask)


@triton.jit
def _rms_norm_kernel(x, weight, out, width, eps, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask = at < width
    dtype = x.dtype.element_ty
    xs = tl.load(x + row * width + at, mask=mask, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(xs * xs, 0) / width + eps)
    ys = (xs * factor).to(dtype).to(tl.float32) * tl.load(weight + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, ys.to(dtype), mask=mask)


@triton.jit(do_not_specialize=["heads", "table_rows"])  # prompt lengths: do not compile again for multiples of 16
def _rope_kernel(x, cos, sin, heads, table_rows, HALF: tl.constexpr):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.arange(0, HALF)
    address = x + (row * heads + head) * 2 * HALF + at
    entry = row % table_rows * 2 * HALF + at
    c, s = tl.load(cos + entry).to(tl.float32), tl.load(sin + entry).to(tl.float32)  # their second half is the same
    first, second = tl.load(address).to(tl.float32), tl.load(address + HALF).to(tl.float32)
    tl.store(address, (first * c - second * s).to(x.dtype.element_ty))
    tl.store(address + HALF, (second * c + first * s).to(x.dtype.element_ty))


@triton.jit
def _silu_mul_kernel(gate, up, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    dtype = gate.dtype.element_ty
    g = tl.load(gate + at, mask=mask, other=0.0).to(tl.float32)
    g = (g / (1 + tl.exp(-g))).to(dtype).to(tl.float32) * tl.load(up + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(gate + at, g.to(dtype), mask=mask)


@triton.jit
def _int4_dequantize_kernel(weight, scale, out, groups, GROUPS: tl.constexpr):
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    byte = tl.arange(0, 32)
    mask = (group < groups)[:, None]
    packed = tl.load(weight + group[:, None] * 32 + byte[None, :], mask=mask, other=0x88)
    s = tl.load(scale + group[:, None], mask=mask, other=0.0).to(tl.float32)
    address = out + group[:, None] * 64 + byte[None, :]
    tl.store(address, (((packed & 15).to(tl.float32) - 8) * s).to(out.dtype.element_ty), mask=mask)
    tl.store(address + 32, (((packed >> 4).to(tl.float32) - 8) * s).to(out.dtype.element_ty), mask=mask)
