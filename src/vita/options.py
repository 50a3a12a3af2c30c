"""Options that a model is loaded with, those of speech, and the check of their values."""

from __future__ import annotations

import numbers
import re
import reprlib
from dataclasses import dataclass
from typing import Literal, get_args

from vita.errors import RequestError

Quantize = Literal["int8", "int4", "int8+encoders", "int4+encoders"]
SCHEMES: tuple[Quantize, ...] = get_args(Quantize)
Dtype = Literal["auto", "float32", "fp32", "float16", "fp16", "bfloat16", "bf16"]
DTYPE_NAMES: tuple[Dtype, ...] = get_args(Dtype)
MAX_QUEUE = 64  # waiting requests

_LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8})*(?:\.[A-Za-z0-9-]+)?")
_DEVICE = re.compile(r"auto|(cpu|mps)(:0)?|cuda(:[0-9]{1,3})?")
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMGT]?I?)B?\s*")
_PREFIXES = {
    "": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a model is loaded and served. Made once, by the command line or `vita.load`, and passed on unchanged.

    The values are checked here, as far as that needs neither the model nor the machine.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        dtype: working dtype: "auto", "float32", "float16" or "bfloat16".
        quantize: a scheme (`SCHEMES`) that linear layers are quantised to while loading. None: as stored; "none" says
            the same and is refused for a checkpoint that is stored quantised.
        kv_cache: "int8" holds keys and values in eight bits; None or "auto": in the working dtype.
        memory: limit of the whole process, a size such as "4GB", or "auto" (what is available): the least quantised
            variant within it is loaded. None: no limit. Not together with `quantize`.
        offline: never use the network.
        threads: CPU threads that compute; None: automatic.
        kv_budget: bytes for the KV caches of all requests; None: automatic.
        max_queue: requests that may wait behind the 64 that may run; one more is refused.

    Raises:
        RequestError: a value that does not exist or two that exclude each other; `where` is the option's name.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    kv_cache: str | None = None
    memory: str | None = None
    offline: bool = False
    threads: int | None = None
    kv_budget: int | None = None
    max_queue: int = MAX_QUEUE

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise RequestError(f"unknown device {self.device!r}", where="device", fix="use auto, cpu, cuda or mps")
        if self.dtype not in DTYPE_NAMES:
            raise RequestError(
                f"unknown dtype {self.dtype!r}", where="dtype", fix="use auto, float32, float16 or bfloat16"
            )
        parse_quantize(self.quantize)
        if self.kv_cache not in (None, "auto", "int8"):
            raise RequestError(f"unknown format {self.kv_cache!r}", where="kv_cache", fix="use auto or int8")
        if self.memory is not None:
            parse_size(self.memory)
            if self.quantize is not None:
                raise RequestError("cannot be used with `quantize`", where="memory", fix="leave one of them out")
        if not isinstance(self.offline, bool):
            raise RequestError(f"must be True or False, not {self.offline!r:.60}", where="offline")
        for name, value in (("threads", self.threads), ("kv_budget", self.kv_budget), ("max_queue", self.max_queue)):
            if value is None and name != "max_queue":
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise RequestError(f"must be an integer, not {value!r:.60}", where=name)
            if value < 1:
                raise RequestError(f"must be 1 or more, not {value}", where=name)

    @property
    def scheme(self) -> Quantize | None:
        """The scheme that was asked for; None if none was."""
        return parse_quantize(self.quantize)

    @property
    def quantized_kv_cache(self) -> bool:
        """Whether keys and values are held in eight bits."""
        return self.kv_cache == "int8"


def parse_quantize(name: str | None) -> Quantize | None:
    """The scheme of this name; None for None and "none".

    Raises:
        RequestError: there is no such scheme.
    """
    if name in (None, "none"):
        return None
    if name not in SCHEMES:
        raise RequestError(f"unknown scheme {name!r}", where="quantize", fix=f"use {' or '.join(SCHEMES)}")
    return name


def parse_size(text: str) -> int | None:
    """Bytes of "4GB", "3.5 GiB" or "800m"; None for "auto".

    Raises:
        RequestError: the text is not a size, or a size of zero.
    """
    if not isinstance(text, str):
        raise RequestError(f"must be a size such as '4GB', or 'auto', not {text!r:.60}", where="memory")
    if text.strip().lower() == "auto":
        return None
    found = _SIZE.fullmatch(text.upper())
    size = int(float(found[1]) * _PREFIXES[found[2]]) if found and found[2] in _PREFIXES else 0
    if size < 1:
        raise RequestError(f"{text!r} is not a size", where="memory", fix="use auto, or a size such as 4GB")
    return size


@dataclass(frozen=True, kw_only=True)
class SpeechOptions:
    """How an answer is spoken.

    Attributes:
        voice: "vita" (the checkpoint's own), "piper", "espeak" or another installed voice; None, like OpenAI's names
            ("alloy", …): the best that is installed.
        language: BCP 47, such as "en" or "zh"; None: by the script of each clause, Latin letters as English.
        speed: 0.25 to 4; 1 is the voice's normal rate.
        seed: makes a voice that samples reproducible.

    Raises:
        RequestError: a value of another type, or a language that is no tag. What no voice can do is refused when it is
            used.
    """

    voice: str | None = None
    language: str | None = None
    speed: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("voice", self.voice), ("language", self.language)):
            if value is not None and not isinstance(value, str):
                raise RequestError(f"must be a string, not {value!r:.60}", where=name)
        if self.language is not None and not _LANGUAGE_TAG.fullmatch(self.language):
            fix = "use a code such as en or pt-BR"
            raise RequestError(f"is not a language tag: {self.language!r:.60}", where="language", fix=fix)
        check_number(self.speed, "speed")
        if self.seed is not None:
            check_number(self.seed, "seed", integer=True)

    @classmethod
    def of(cls, speech: object) -> SpeechOptions | None:
        """What `speech=` of a request asks for.

        Args:
            speech: the options; True: the best voice; the name of a voice; False or None: no speech.

        Raises:
            RequestError: anything else.
        """
        if speech is None or speech is False:
            return None
        if isinstance(speech, SpeechOptions):
            return speech
        if isinstance(speech, str):
            return cls(voice=speech)
        if speech is True:
            return cls()
        kind = type(speech).__name__
        raise RequestError(f"must be True, the name of a voice or SpeechOptions, not {kind}", where="speech")


def check_number(value: object, name: str, *, integer: bool = False) -> None:
    """Refuse a value that is not numeric.

    Raises:
        RequestError: not a number, not an integer, or one that no float holds.
    """
    wanted = numbers.Integral if integer else numbers.Real
    if not isinstance(value, wanted) or isinstance(value, bool):
        what = "an integer" if integer else "a number"
        raise RequestError(f"must be {what}, not {show_value(value)}", where=name)
    try:
        float(value)
    except OverflowError:
        raise RequestError(f"is too large: {show_value(value)}", where=name) from None


def show_value(value: object) -> str:
    """A short form of a wrong value for error sentences."""
    try:
        return reprlib.repr(value)[:100]
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "an integer of thousands of digits"
