"""Configuration of the speech decoder and the codec, read from their JSON files.

All that is wrong in a file is collected, so that one error can list it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vita.checkpoint.settings import Settings, show
from vita.config import DecoderConfig
from vita.errors import CheckpointError

SAMPLES_PER_TOKEN = 600  # of 24-kHz audio: 40 tokens are one second
TOKENS_PER_SECOND = 40
CODE_SIZE = 512  # width of a code's embedding
GLOBAL_SIZE = 128  # of the global vector, which is added where the generator has as many channels
SPECIAL_IDS = 4  # begin of the hidden rows, start, end, padding: the ids behind the speech tokens
ROPE_THETA = 10_000.0
RESBLOCK_CONVS = {"1": 3, "2": 2}  # dilations of a residual block

Value = TypeVar("Value")


@dataclass(frozen=True)
class SpeechDecoderConfig:
    """The decoder of speech tokens (spec section 9.2).

    Attributes:
        codes: V, the number of speech tokens. The decoder's vocabulary has `SPECIAL_IDS` more.
        decoder: sizes of its layers.
        has_prefix_layers: the file holds layers that inference does not use.
    """

    codes: int
    decoder: DecoderConfig
    has_prefix_layers: bool = False

    @property
    def begin_id(self) -> int:
        """Its embedding stands in front of the text's rows."""
        return self.codes

    @property
    def start_id(self) -> int:
        """The token in front of the first speech token."""
        return self.codes + 1

    @property
    def end_id(self) -> int:
        """The token after the last speech token; it is never heard."""
        return self.codes + 2

    @property
    def pre_layers(self) -> int:
        """Layers of the network in front of the decoder."""
        return self.decoder.num_layers // 2


@dataclass(frozen=True)
class CodecConfig:
    """The codec's generator (spec section 9.3).

    Attributes:
        codes: rows of the embedding tables.
        channels: C0, which halves at every stage.
        rates, kernels: strides and kernel sizes of the transposed convolutions.
        resblock: "1" (pairs of convolutions) or "2".
        block_kernels: kernel sizes of the residual blocks of a stage.
        block_dilations: for each of them, the dilations of its convolutions.
        global_tokens: codes of the voice.
    """

    codes: int
    channels: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    resblock: str
    block_kernels: tuple[int, ...]
    block_dilations: tuple[tuple[int, ...], ...]
    global_tokens: tuple[int, ...]


class Problems:
    """What is wrong with a checkpoint, in words."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Note one problem of a file."""
        self.found.append(f"{where}: {what}")

    def checked(self, where: str, read: Callable[[], Value], otherwise: Value) -> Value:
        """What `read` returns; if it raises `CheckpointError`, that is noted and `otherwise` returned."""
        try:
            return read()
        except CheckpointError as error:
            self.add(where, error.what)
            return otherwise


def read_decoder_config(file: Path, name: str, problems: Problems) -> SpeechDecoderConfig | None:
    """The speech decoder's sizes; None, with the reasons in `problems`, if they cannot be used.

    Args:
        file: `decoder/model.json`.
        name: how problems name it.
        problems: collects what is wrong.
    """
    before = len(problems.found)
    data = problems.checked(name, lambda: _read_json(file), None)
    if len(problems.found) > before:
        return None
    if not isinstance(data, list) or len(data) != 3 or not isinstance(data[2], dict):
        problems.add(name, "is not a list of two sizes and a mapping")
        return None
    settings = Settings({str(k): v for k, v in data[2].items()}, file)

    def integer(key: str) -> int:
        return problems.checked(name, lambda: settings.integer(key), 1)

    size, codes, heads = integer("idim"), integer("odim"), integer("transformer_attention_heads")
    units, layers = integer("transformer_linear_units"), integer("transformer_num_blocks")
    for key in ("transformer_attention_dim", "encoder_output_dim"):
        if key in settings and integer(key) != size:
            problems.add(name, f"{key} is {integer(key)}, and idim {size}; they must be equal")
    if size % heads or (size // heads) % 2:
        problems.add(name, f"{heads} heads do not divide {size} into even sizes")
    if len(problems.found) > before:
        return None
    decoder = DecoderConfig(
        size, units, layers, heads, heads, codes + SPECIAL_IDS, rope_theta=ROPE_THETA, attention_bias=False,
        head_bias=True,
    )  # fmt: skip
    return SpeechDecoderConfig(codes, decoder, bool(settings.data.get("kv_cache_prefix_finetune")))


def read_codec_config(file: Path, name: str, problems: Problems) -> CodecConfig | None:
    """The codec's sizes; arguments and result as for `read_decoder_config`."""
    before = len(problems.found)
    data = problems.checked(name, lambda: _read_json(file), None)
    if len(problems.found) > before:
        return None
    if not isinstance(data, dict):
        problems.add(name, "is not a JSON object")
        return None
    settings = Settings({str(k): v for k, v in data.items()}, file)

    def integer(key: str) -> int:
        return problems.checked(name, lambda: settings.integer(key), 1)

    def integers(key: str, low: int = 1) -> tuple[int, ...]:
        return problems.checked(name, lambda: _integers(settings, key, settings.items(key), low), ())

    resblock = "1" if str(settings.data.get("resblock")) == "1" else "2"
    count = integer("global_code_num")
    config = CodecConfig(
        integer("n_codes"), integer("upsample_initial_channel"), integers("upsample_rates"),
        integers("upsample_kernel_sizes"), resblock, integers("resblock_kernel_sizes"),
        problems.checked(name, lambda: _dilations(settings, resblock), ()), integers("global_tokens", 0),
    )  # fmt: skip
    for key in ("n_code_groups", "residul_layer"):
        if key in settings and integer(key) != 1:
            problems.add(name, f"{key} is {integer(key)}; the speech decoder gives one code a step, so it must be 1")
    if len(problems.found) > before:
        return None
    _check_codec(config, count, name, problems)
    return config if len(problems.found) == before else None


def _check_codec(config: CodecConfig, count: int, name: str, problems: Problems) -> None:
    """How the values of the codec's file depend on each other."""
    rates, kernels, tokens = config.rates, config.kernels, config.global_tokens
    if math.prod(rates) != SAMPLES_PER_TOKEN:
        problems.add(name, f"the product of upsample_rates must be {SAMPLES_PER_TOKEN}, not {math.prod(rates)}")
    if len(kernels) != len(rates) or any(k < u or (k - u) % 2 for k, u in zip(kernels, rates, strict=False)):
        problems.add(name, f"upsample_kernel_sizes {show(list(kernels))} do not belong to the upsample_rates")
    if config.channels % 2 ** len(rates):
        problems.add(name, f"upsample_initial_channel {config.channels} cannot be halved {len(rates)} times")
    if not config.block_kernels or any(k % 2 == 0 for k in config.block_kernels):
        problems.add(name, f"resblock_kernel_sizes must be odd, not {show(list(config.block_kernels))}")
    if len(config.block_dilations) != len(config.block_kernels):
        problems.add(name, "resblock_dilation_sizes must hold one list for each of the resblock_kernel_sizes")
    if GLOBAL_SIZE % count:
        problems.add(name, f"global_code_num {count} does not divide {GLOBAL_SIZE}")
    if len(tokens) != count:
        problems.add(name, f"global_tokens must hold {count} codes (global_code_num), not {len(tokens)}")
    if any(token >= config.codes for token in tokens):
        problems.add(name, f"global_tokens must be under {config.codes} (n_codes)")


def _integers(settings: Settings, key: str, items: list[object], low: int) -> tuple[int, ...]:
    """The items of a list, if they are integers.

    Raises:
        CheckpointError: they are not.
    """
    found = [item for item in items if isinstance(item, int) and not isinstance(item, bool) and low <= item < 1 << 20]
    if len(found) != len(items) or (not found and low):
        settings.fail(key, f"must be a list of integers from {low} on, not {show(items)}")
    return tuple(found)


def _dilations(settings: Settings, resblock: str) -> tuple[tuple[int, ...], ...]:
    key, count = "resblock_dilation_sizes", RESBLOCK_CONVS[resblock]
    lists = [item if isinstance(item, list) else [item] for item in settings.items(key)]
    found = tuple(_integers(settings, key, item, 1) for item in lists)
    if any(len(item) < count for item in found):
        settings.fail(key, f"must hold lists of {count} integers, not {show(settings.data[key])}")
    return tuple(item[:count] for item in found)


def _read_json(file: Path) -> object:
    """Any JSON value.

    Raises:
        CheckpointError: missing, unreadable or not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError("is missing", where=file) from None
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=file) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError("is not valid JSON", where=file) from error
