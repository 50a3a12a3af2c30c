"""The reference's joiner: every sample is emitted once, in order, whatever is quiet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.speech.checkpoints import CODES, tiny_speech

from vita.errors import RequestError
from vita.speech.codec import finish
from vita.speech.join import Joiner, ReferencePieces, ReferenceStreaming


@given(
    st.lists(st.lists(st.floats(-1, 1, width=32), max_size=60), max_size=6),
    st.integers(1, 20),
    st.floats(0, 2),
)
def test_every_sample_is_emitted_once(parts: list[list[float]], window: int, threshold: float) -> None:
    joiner, out = Joiner(window, threshold), []
    for part in parts:
        segment = joiner.push(torch.tensor(part))
        out += [] if segment is None else [segment]
    out.append(joiner.flush(torch.zeros(0)))
    assert torch.cat(out).tolist() == torch.tensor([x for part in parts for x in part]).tolist()


def test_it_cuts_at_the_quietest_sample_of_a_quiet_place() -> None:
    audio = torch.ones(1000)
    audio[700:800] = 0.1
    audio[750] = 0.0
    joiner = Joiner(51, 0.2)
    segment = joiner.push(audio)
    assert segment is not None and 700 <= len(segment) <= 800
    assert joiner.push(torch.ones(1000)) is None, "loud audio is kept"


@torch.inference_mode()
@pytest.mark.parametrize("count", [0, 1, 12, 30, 31, 57])
def test_the_references_pieces_give_600_samples_a_token(tmp_path: Path, count: int) -> None:
    codec = tiny_speech(tmp_path).codec
    tokens = [token % CODES for token in range(count)]
    pieces, out = ReferencePieces(codec, ReferenceStreaming(20, 10, 2401, 10.0)), []
    at = 0
    while at < count:
        end = min(count, pieces.wanted)
        out.append(finish(pieces.push(tokens[at:end], last=False)))
        at = end
    out.append(finish(pieces.push([], last=True)))
    assert sum(map(len, out)) == 600 * count
    whole = codec(tokens)
    assert count == 0 or float((torch.cat(out) - whole).abs().mean()) < 0.02, "near the exact audio"


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(RequestError):
        ReferenceStreaming(pad=0)
