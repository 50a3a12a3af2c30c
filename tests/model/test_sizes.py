"""Parameter counts at the released sizes, built on the meta device (spec sections 4, 6 and 8)."""

from __future__ import annotations

import pytest
from benchmarks.make_checkpoint import RELEASED, USED_VOCAB

from vita.model.vita import VitaModel

COUNTS = VitaModel.on_meta(RELEASED, USED_VOCAB).parameter_counts()


def test_whale_has_the_published_341_4_mi_parameters() -> None:
    assert round(COUNTS["audio"] / 2**20, 1) == 341.4


def test_every_part_is_counted_by_hand() -> None:
    c, inter, layers, grid = 1024, 4096, 24, 32
    block = 2 * 2 * c + 2 * c + (3 * c * c + 3 * c) + (c * c + c) + (c * inter + inter) + (inter * c + c)
    assert COUNTS["vision"] == c * 3 * 14 * 14 + c + c + (1 + grid * grid) * c + layers * block
    h = 3584
    assert COUNTS["projector"] == (4 * c * h + h) + (h * h + h)
    kv, mlp = 4 * 128, 18944
    layer = (h * h + h) + 2 * (h * kv + kv) + h * h + 3 * h * mlp + 2 * h
    assert COUNTS["decoder"] == 2 * USED_VOCAB * h + 28 * layer + h
    assert COUNTS["adapter"] == (5 * c * 2 * c + 2 * c) + 2 * 2 * c + (2 * c * h + h)


def test_the_whole_model_has_8_3_billion() -> None:
    assert sum(COUNTS.values()) == pytest.approx(8.3e9, rel=0.005)
