"""Fusion: encoder rows stand exactly where their media stood, and nothing else moves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vita.engine.fusion import fuse, visual_positions
from vita.types import MediaSpan, Span, TextSpan

TABLE = torch.arange(20).float()[:, None].expand(-1, 3).contiguous()
TEXT = st.lists(st.integers(0, 19), max_size=5).map(lambda ids: TextSpan(tuple(ids)))
MEDIA = st.builds(
    MediaSpan, st.sampled_from(["image", "audio"]), st.binary(min_size=1, max_size=1), st.just(0)
)  # fmt: skip


def embed(ids: Tensor) -> Tensor:
    return TABLE[ids]


@given(st.lists(st.one_of(TEXT, MEDIA), max_size=20))
def test_every_row_stands_where_its_media_stood(items: list[Span]) -> None:
    spans: list[Span] = []
    features: dict[bytes, Tensor] = {}
    expected: list[float] = []
    for span in items:
        if isinstance(span, MediaSpan):
            value = 100.0 + span.digest[0]
            features[span.digest] = torch.full((span.digest[0] % 6, 3), value)
            span = MediaSpan(span.kind, span.digest, span.digest[0] % 6)
            expected += [value] * span.rows
        else:
            expected += [float(i) for i in span.ids]
        spans.append(span)
    fused = fuse(spans, embed, features)
    assert fused.shape == (len(expected), 3)
    assert fused[:, 0].tolist() == expected


def test_rows_are_fused_on_the_decoders_device() -> None:
    """The meta device stands for a GPU."""
    there = torch.device("meta")
    spans = [TextSpan((1,)), MediaSpan("image", b"i", 4), TextSpan((2,))]
    fused = fuse(spans, lambda ids: TABLE[ids].to(there), {b"i": torch.empty(4, 3)})
    assert fused.device == there and list(fused.shape) == [6, 3]


def test_an_encoder_that_makes_another_number_of_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="the audio encoder made 1 rows where 3 are expected"):
        fuse([MediaSpan("audio", b"a", 3)], embed, {b"a": torch.zeros(1, 3)})


def test_visual_positions_advance_slower_inside_an_image_only() -> None:
    spans = [TextSpan((5,)), MediaSpan("image", b"i", 4), TextSpan((6, 7))]
    assert visual_positions(spans, 1).tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    assert visual_positions(spans, 2).tolist() == [[0, 1, 1, 2, 2, 3, 4]]
    assert visual_positions([MediaSpan("audio", b"a", 3), TextSpan((6,))], 2).tolist() == [[0, 1, 2, 3]]
