"""Options are checked once, where they are made; an error names the option."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from vita.errors import RequestError
from vita.options import EngineOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "abacus"), ("device", "cuda:x"), ("device", "meta"), ("dtype", "int3"), ("quantize", "int3"),
        ("kv_cache", "int2"), ("memory", "much"), ("memory", "0GB"), ("threads", 0), ("kv_budget", -1),
        ("max_queue", 0),
    ],
)  # fmt: skip
def test_an_unknown_value_names_its_option(name: str, value: object) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(RequestError) as caught:
        EngineOptions(**wrong)
    assert caught.value.where == name and "--" not in str(caught.value)


def test_options_do_not_change() -> None:
    options = EngineOptions(quantize="int4+encoders", kv_cache="int8", device="cuda:1", memory=None)
    assert options.scheme == "int4+encoders" and options.quantized_kv_cache and options.max_queue == 64
    assert EngineOptions(quantize="none").scheme is None and not EngineOptions(kv_cache="auto").quantized_kv_cache
    with pytest.raises(FrozenInstanceError):
        options.dtype = "float32"  # type: ignore[misc]
