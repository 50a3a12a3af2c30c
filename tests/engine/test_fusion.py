"""Splicing: media rows stand exactly where their slots stood, and nothing else moves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vita.engine.fusion import fuse, visual_positions
from vita.prompt.template import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER

TABLE = torch.arange(20).float()[:, None].expand(-1, 3).contiguous()
Item = tuple[int, int]


WORD = st.integers(0, 19).map(lambda i: (i, 0))
MEDIUM = st.tuples(st.sampled_from([IMAGE_PLACEHOLDER, AUDIO_PLACEHOLDER]), st.integers(0, 5))


@given(st.lists(st.one_of(WORD, MEDIUM), max_size=30))
def test_every_row_lands_where_its_slot_stood(items: list[Item]) -> None:
    images, audios, expected = [], [], []
    for number, (token, rows) in enumerate(items):
        if token in (IMAGE_PLACEHOLDER, AUDIO_PLACEHOLDER):
            media = torch.full((rows, 3), 100.0 + number)
            (images if token == IMAGE_PLACEHOLDER else audios).append(media)
            expected += [100.0 + number] * rows
        else:
            expected.append(float(token))
    fused = fuse([t for t, _ in items], TABLE, images, audios)
    assert fused.shape == (len(expected), 3)
    assert fused[:, 0].tolist() == expected


def test_rows_go_to_where_the_media_are_and_the_table_stays() -> None:
    """The meta device stands for a GPU."""
    there = torch.device("meta")
    fused = fuse([1, IMAGE_PLACEHOLDER, 2], TABLE, [torch.empty(4, 3, device=there)], [], there)
    assert fused.device == there and list(fused.shape) == [6, 3]


def test_slots_and_media_must_pair_up() -> None:
    with pytest.raises(ValueError, match="1 slots of kind -200 for 0 media"):
        fuse([1, IMAGE_PLACEHOLDER], TABLE, [], [])
    with pytest.raises(ValueError, match="0 slots of kind -500 for 1 media"):
        fuse([1], TABLE, [], [torch.zeros(1, 3)])


def test_visual_positions_advance_slower_inside_a_picture_only() -> None:
    ids = [5, IMAGE_PLACEHOLDER, 6, 7]
    assert visual_positions(ids, [4], 1).tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    assert visual_positions(ids, [4], 2).tolist() == [[0, 1, 1, 2, 2, 3, 4]]
    assert visual_positions([AUDIO_PLACEHOLDER, 6], [3], 2).tolist() == [[0, 1, 2, 3]]
