"""What stands between the products of many rows gives what PyTorch's own operations give."""

from __future__ import annotations

import torch
from torch.nn import functional

from vita.kernels.triton.elementwise import TritonElementwise, int4_dequantize, take
from vita.layers.norm import RMSNorm
from vita.layers.rope import rotary, rotate
from vita.quant.int4 import quantize_groups, unpack

ROWS = TritonElementwise()


def test_the_norm() -> None:
    x, norm = torch.randn(2, 3, 100), RMSNorm(100, 1e-6)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.testing.assert_close(ROWS.rms_norm(x, norm.weight.detach(), 1e-6), norm(x).detach())


def test_rotary_positions_with_angles_of_their_own_or_shared() -> None:
    for batch in (1, 2):
        x = torch.randn(2, 5, 3, 32)
        angles = rotary(torch.arange(5 * batch).view(batch, 5) * 7, 32, 1e6, torch.float32)
        wanted = rotate(x, angles)
        assert ROWS.rope(x, *(angle.contiguous() for angle in angles))
        torch.testing.assert_close(x, wanted)


def test_what_the_rotary_kernel_does_not_know_is_left_alone() -> None:
    x = torch.randn(1, 2, 3, 24)
    kept = x.clone()
    assert not ROWS.rope(x, *rotary(torch.arange(2)[None], 24, 1e6, torch.float32))
    assert torch.equal(x, kept)


def test_the_gate_of_an_mlp() -> None:
    gate, up = torch.randn(5, 700), torch.randn(5, 700)
    wanted = functional.silu(gate) * up
    assert ROWS.silu_mul(gate, up)
    torch.testing.assert_close(gate, wanted)


def test_four_bits_widened() -> None:
    values, scale = quantize_groups(torch.randn(10, 192))
    out = torch.full((10, 192), torch.nan)
    int4_dequantize(values, scale, out)
    torch.testing.assert_close(out, unpack(values, scale).float(), atol=1e-2, rtol=1e-2)  # those are bfloat16


def test_rows_of_a_table_wider_than_a_program() -> None:
    table, tokens = torch.randn(40, 1100), torch.tensor([39, 0, 7, 7])
    out = torch.full((4, 1100), torch.nan)
    take(table, tokens, out)
    assert torch.equal(out, table[tokens])
