"""Options that a model is loaded with."""

from __future__ import annotations

from typing import Literal, get_args

from vita.errors import RequestError

Quantize = Literal["int8", "int4", "int8+encoders", "int4+encoders"]
SCHEMES: tuple[Quantize, ...] = get_args(Quantize)


def choose_kv_cache(name: str | None) -> bool:
    """Whether keys and values are rounded to eight bits.

    Raises:
        RequestError: a format there is not.
    """
    if name not in (None, "auto", "int8"):
        raise RequestError(f"unknown format {name!r}", where="--kv-cache", fix="use auto or int8")
    return name == "int8"


def choose_quantize(name: str | None) -> Quantize | None:
    """None or a scheme this engine has.

    Raises:
        RequestError: another one.
    """
    if name in (None, "none"):
        return None
    if name not in SCHEMES:
        raise RequestError(f"unknown scheme {name!r}", where="--quantize", fix=f"use {' or '.join(SCHEMES)}")
    return name
