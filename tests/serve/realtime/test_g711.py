"""G.711 against code words of ITU-T G.711, and round trips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.serve.realtime.g711 import Law, decode, encode

# Some code words of ITU-T G.711 (tables 1a, 2a), as PCM16.
KNOWN: dict[Law, dict[int, int]] = {
    "pcmu": {0xFF: 0, 0x7F: 0, 0x80: 32_124, 0x00: -32_124, 0xEF: 132, 0x6F: -132, 0xCE: 988},
    "pcma": {0xD5: 8, 0x55: -8, 0xAA: 32_256, 0x2A: -32_256, 0xC5: 264, 0x80: 5504},
}


@pytest.mark.parametrize("law", ["pcmu", "pcma"])
def test_known_code_words(law: Law) -> None:
    for code, value in KNOWN[law].items():
        assert decode(bytes([code]), law)[0] == value


@pytest.mark.parametrize("law", ["pcmu", "pcma"])
def test_every_code_survives_a_round_trip(law: Law) -> None:
    codes = bytes(range(256))
    again = decode(encode(decode(codes, law), law), law)
    assert (again == decode(codes, law)).all()


@pytest.mark.parametrize("law", ["pcmu", "pcma"])
@given(value=st.integers(-32_768, 32_767))
def test_the_nearest_code_is_chosen_within_a_step(law: Law, value: int) -> None:
    """The error is at most half a step of the segment, which is 1/32 of the value, or 8 near zero."""
    got = int(decode(encode(np.array([value], np.int16), law), law)[0])
    assert abs(got - value) <= max(8, abs(value) // 32 + 5) or abs(value) > 32_000
