"""The elementwise Triton kernels give what PyTorch operations give."""

from __future__ import annotations

import torch
from torch.nn import functional

from vita.kernels.triton.elementwise import TritonElementwise, embedding, int4_dequantize
from vita.layers.norm import RMSNorm
from vita.layers.rope import apply_rope, rope_tables
from vita.quant.int4 import quantize_groups, unpack

KERNELS = TritonElementwise()


def test_rms_norm_is_the_layers_own() -> None:
    x, norm = torch.randn(2, 3, 100), RMSNorm(100, 1e-6)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.testing.assert_close(KERNELS.rms_norm(x, norm.weight.detach(), 1e-6), norm(x).detach())


def test_rope_with_positions_of_each_row_or_shared() -> None:
    for batch in (1, 2):
        x = torch.randn(2, 5, 3, 32)
        tables = rope_tables(torch.arange(5 * batch).view(batch, 5) * 7, 32, 1e6, torch.float32)
        wanted = apply_rope(x, tables)
        assert KERNELS.rope(x, *(table.contiguous() for table in tables))
        torch.testing.assert_close(x, wanted)


def test_an_unsupported_head_size_is_left_unchanged() -> None:
    x = torch.randn(1, 2, 3, 24)
    kept = x.clone()
    assert not KERNELS.rope(x, *rope_tables(torch.arange(2)[None], 24, 1e6, torch.float32))
    assert torch.equal(x, kept)


def test_silu_mul() -> None:
    gate, up = torch.randn(5, 700), torch.randn(5, 700)
    wanted = functional.silu(gate) * up
    assert KERNELS.silu_mul(gate, up)
    torch.testing.assert_close(gate, wanted)


def test_int4_is_dequantized() -> None:
    values, scale = quantize_groups(torch.randn(10, 192))
    out = torch.full((10, 192), torch.nan)
    int4_dequantize(values, scale, out)
    torch.testing.assert_close(out, unpack(values, scale).float(), atol=1e-2, rtol=1e-2)  # unpack gives bfloat16


def test_embedding_rows_wider_than_one_program() -> None:
    table, tokens = torch.randn(40, 1100), torch.tensor([39, 0, 7, 7])
    out = torch.full((4, 1100), torch.nan)
    embedding(table, tokens, out)
    assert torch.equal(out, table[tokens])
