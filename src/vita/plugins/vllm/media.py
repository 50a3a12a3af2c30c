"""Media as vLLM passes them on, read by this package and laid out as tensors for the encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media.base import MediaWithBytes

from vita.config import VitaConfig
from vita.errors import VitaError
from vita.media.filterbank import filterbank_pieces
from vita.prompt.template import Media
from vita.prompt.turn_reader import TurnReader
from vita.runtime.clock import Stopwatch
from vita.sources import Bytes
from vita.types import Audio, Image, MediaOptions, MediaPolicy, Message, Part, Video

Kind = Literal["image", "video", "audio"]
KINDS: tuple[Kind, ...] = ("image", "video", "audio")
# vLLM's connector fetched what may be fetched: here only bytes and arrays are read.
POLICY = MediaPolicy(allow_files=False, allow_urls=False)


@contextmanager
def vllm_errors() -> Iterator[None]:
    """Turn errors that a user can fix into the kind that vLLM answers with status 400."""
    try:
        yield
    except VitaError as error:
        raise VLLMValidationError(error.sentence()) from error


def media_options(kwargs: Mapping[str, object]) -> MediaOptions:
    """How media are read.

    Args:
        kwargs: vLLM's `mm_processor_kwargs`: `max_tiles` and `reference`, as in `vita.types.MediaOptions`.

    Raises:
        RequestError: a value of another type.
    """
    most, reference = kwargs.get("max_tiles"), kwargs.get("reference", False)
    return MediaOptions(reference=reference, max_tiles=most, policy=POLICY)  # type: ignore[arg-type]  # checked there


def as_part(kind: Kind, item: object, sample_rate: int) -> Part:
    """A message part for an item of vLLM's `multi_modal_data`.

    Args:
        kind: of the item.
        item: bytes, a PIL image, an array, frames, samples, samples with their rate, or what vLLM decoded.
        sample_rate: of samples that come without one, in Hz.

    Raises:
        RequestError: an item that cannot be used.
    """
    if isinstance(item, MediaWithBytes):  # decoded by vLLM: its bytes are decoded again, by this package
        item = Bytes(item.original_bytes, f"<{kind}>")
    rate: object = None
    if kind == "audio":
        if isinstance(item, tuple) and len(item) == 2 and not isinstance(item[0], Bytes):
            item, rate = item
        if not isinstance(item, (Bytes, bytes, bytearray)):
            item, rate = _samples(item), sample_rate if rate is None else rate
        return Audio(item, sample_rate=None if rate is None else int(rate))  # type: ignore[call-overload, arg-type]
    if kind == "video" and isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], dict):
        item = item[0]  # frames with their description
    if isinstance(item, Tensor):
        item = item.cpu().numpy()
    return Image(item) if kind == "image" else Video(item)  # type: ignore[arg-type]  # the constructors check it


def _samples(item: object) -> np.ndarray[Any, Any]:
    """Samples as this package takes them: `[n]` or `[n, channels]`."""
    values = np.asarray(item.cpu() if isinstance(item, Tensor) else item)
    return values.T if values.ndim == 2 and values.shape[0] < values.shape[1] else values


class MediaReader:
    """Reads single items as the engine reads them in a message.

    Args:
        config: of the checkpoint.
        options: how media are read.
    """

    def __init__(self, config: VitaConfig, options: MediaOptions) -> None:
        self.config, self.options = config, options
        self._reader = TurnReader(config)

    def read(self, kind: Kind, item: object) -> Media:
        """An item, decoded; one that is decoded already is returned as it is.

        Raises:
            VLLMValidationError: it cannot be used; the message is one sentence.
        """
        if isinstance(item, Media):
            return item
        with vllm_errors():
            part = as_part(kind, item, self.config.filterbank.sample_rate)
            turn = self._reader.read_turn(Message("user", (part,)), self.options, Stopwatch())
        (piece,) = turn.pieces
        assert isinstance(piece, Media)
        return piece


def media_rows(media: Media) -> int:
    """Positions that an item takes in the prompt."""
    return sum(span.rows for span in media.spans)


def media_digest(media: Media) -> bytes:
    """Names the content of an item."""
    return media.kind.encode() + b"".join(span.digest for span in media.spans)


def visual_tensors(items: Sequence[Media]) -> tuple[Tensor, Tensor]:
    """Tiles or frames of all items, uint8 `[n, S, S, 3]`, and their number in each item, int64 `[items]`."""
    tiles = [torch.from_numpy(np.ascontiguousarray(span.data[0])) for item in items for span in item.spans]
    return torch.stack(tiles), torch.tensor([len(item.spans) for item in items])


def audio_tensors(items: Sequence[Media], config: VitaConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Filterbanks of all windows of all items.

    Returns:
        banks, float32 `[frames, bins]`; frames of each item, int64 `[items]`; frames of each window, int64 `[windows]`;
        windows of each item, int64 `[items]`.
    """
    banks: list[Tensor] = []
    per_item: list[int] = []
    windows: list[int] = []
    for item in items:
        lengths: list[int] = []
        for samples in item.spans[0].data:
            pieces = list(filterbank_pieces(torch.from_numpy(samples), config.filterbank))
            banks += pieces
            lengths.append(sum(len(piece) for piece in pieces))
        per_item.append(sum(lengths))
        windows += lengths
    counts = [len(item.spans[0].data) for item in items]
    return torch.cat(banks), torch.tensor(per_item), torch.tensor(windows), torch.tensor(counts)
