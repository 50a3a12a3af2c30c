"""vLLM's multi-modal processor for VITA-1.5, on this package's own media reading.

Tiles, frames and filterbanks are those of `vita.prompt.turn_reader` and `vita.media`, so that they equal the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor
from transformers import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems, MultiModalDataParser, ProcessorBatchItems
from vllm.multimodal.processing import BaseMultiModalProcessor
from vllm.multimodal.processing.context import BaseProcessingInfo
from vllm.multimodal.processing.dummy_inputs import BaseDummyInputsBuilder
from vllm.multimodal.processing.processor import PromptReplacement, PromptUpdate

from vita.plugins.vllm.checkpoint import PLACEHOLDERS, OpenedModel, opened_model
from vita.plugins.vllm.media import (
    KINDS,
    Kind,
    MediaReader,
    audio_tensors,
    media_digest,
    media_options,
    media_rows,
    visual_tensors,
    vllm_errors,
)
from vita.prompt.template import Media
from vita.prompt.turn_reader import FRAMES_PER_TOKEN
from vita.types import Video

MAX_FRAMES = Video("").max_frames


class MediaItems(ProcessorBatchItems[Media]):
    """Decoded items of one kind. None stands for one that vLLM has in its cache."""

    def __init__(self, data: Sequence[Media | None], kind: Kind) -> None:
        super().__init__(data, kind)

    def get_item_for_hash(self, index: int) -> object:
        """What the item's hash is made of: the digest of its content."""
        item = self.data[index]
        return None if item is None else media_digest(item)


class VitaDataParser(MultiModalDataParser):
    """Decodes the items of `multi_modal_data`.

    Args:
        reader: of single items.
    """

    def __init__(self, reader: MediaReader) -> None:
        super().__init__(audio_resample_method="scipy")  # never used: the reader resamples
        self.reader = reader

    def _get_subparsers(self) -> Mapping[str, Any]:
        return {kind: self._parser(kind) for kind in KINDS}

    def _parser(self, kind: Kind) -> Any:
        def parse(data: object) -> MediaItems | None:
            if data is None:
                return None
            if isinstance(data, (dict, Tensor)) and (isinstance(data, dict) or kind == "image"):
                raise VLLMValidationError(f"Embeddings of {kind}s are not accepted; pass the {kind} itself.")
            items = data if isinstance(data, list) and not _is_one(kind, data) else [data]
            return MediaItems([None if item is None else self.reader.read(kind, item) for item in items], kind)

        return parse


def _is_one(kind: Kind, data: list[Any]) -> bool:
    """Whether a list is one item: the frames of a video, or samples."""
    if kind == "video":
        return bool(data) and all(isinstance(item, Pillow.Image) for item in data)
    return kind == "audio" and bool(data) and all(isinstance(item, float) for item in data)


class VitaProcessingInfo(BaseProcessingInfo):
    """Sizes and limits of the media of one checkpoint."""

    @cached_property
    def opened(self) -> OpenedModel:
        """The checkpoint that vLLM serves."""
        return opened_model(self.ctx.get_hf_config().name_or_path)

    @cached_property
    def reader(self) -> MediaReader:
        """Reads items by the options that the server was started with."""
        with vllm_errors():
            options = media_options(self.ctx.get_mm_config().mm_processor_kwargs or {})
        return MediaReader(self.opened.checkpoint.config, options)

    def get_data_parser(self) -> VitaDataParser:
        """The parser of `multi_modal_data`."""
        return VitaDataParser(self.reader)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Any number of each kind, up to `--limit-mm-per-prompt`."""
        return dict.fromkeys(KINDS)

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        """No options are passed to a processor of Hugging Face: there is none."""
        return {}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Positions of the largest item of each kind; audio is limited by the context alone."""
        config = self.opened.checkpoint.config
        tile, tiling = config.vision.tokens_per_tile, config.tiling
        tiles = tiling.max_tiles + (tiling.thumbnail and tiling.max_tiles > 1)
        audio = media_rows(self.reader.read("audio", self.longest_audio(seq_len)))
        return {"image": tile * tiles, "video": tile * MAX_FRAMES, "audio": audio}

    def longest_audio(self, seq_len: int) -> np.ndarray[Any, Any]:
        """Silence that takes nearly `seq_len` positions: float32 `[n]`."""
        bank = self.opened.checkpoint.config.filterbank
        token = int(bank.sample_rate * bank.frame_shift * 0.001) * FRAMES_PER_TOKEN
        longest = int(self.reader.options.policy.max_seconds * bank.sample_rate)
        return np.zeros(min(longest, max(1, seq_len - 1) * token), np.float32)


class VitaDummyInputs(BaseDummyInputsBuilder[VitaProcessingInfo]):
    """Inputs of the largest size, by which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """A prompt with so many placeholders."""
        return "".join(PLACEHOLDERS[kind] * mm_counts.get(kind, 0) for kind in KINDS)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, object]
    ) -> dict[str, Any]:
        """Items that take the most positions: an image of the most tiles, a video of the most frames, long silence."""
        tiling = self.info.opened.checkpoint.config.tiling
        # An image as wide as all tiles in one row is cut into that row.
        image = Pillow.new("RGB", (tiling.tile * tiling.max_tiles, tiling.tile))
        frames = np.zeros((MAX_FRAMES, tiling.tile, tiling.tile, 3), np.uint8)
        data: dict[str, Any] = {}
        if count := mm_counts.get("image", 0):
            data["image"] = [image] * count
        if count := mm_counts.get("video", 0):
            data["video"] = [frames] * count
        if count := mm_counts.get("audio", 0):
            data["audio"] = [self.info.longest_audio(seq_len)] * count
        return data


class VitaMultiModalProcessor(BaseMultiModalProcessor[VitaProcessingInfo]):
    """Lays decoded items out as tensors, and replaces each placeholder by as many as its item takes positions."""

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        """Tensors of all items. They are not cast to the model's dtype: pixels are bytes, filterbanks float32."""
        data: dict[str, Tensor] = {}
        if images := _media(hf_data, "images"):
            data["tiles"], data["num_tiles"] = visual_tensors(images)
        if videos := _media(hf_data, "videos"):
            data["frames"], data["num_frames"] = visual_tensors(videos)
        if audio := _media(hf_data, "audio"):
            names = ("banks", "num_bank_frames", "window_frames", "num_windows")
            data.update(zip(names, audio_tensors(audio, self.info.opened.checkpoint.config), strict=True))
        return BatchFeature(data)

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        def sizes(name: str) -> Tensor:
            return cast(Tensor, hf_inputs.get(name, torch.zeros(0, dtype=torch.int64)))

        field = MultiModalFieldConfig
        return {
            "tiles": field.flat_from_sizes("image", sizes("num_tiles")),
            "num_tiles": field.batched("image", keep_on_cpu=True),
            "frames": field.flat_from_sizes("video", sizes("num_frames")),
            "num_frames": field.batched("video", keep_on_cpu=True),
            "banks": field.flat_from_sizes("audio", sizes("num_bank_frames")),
            "num_bank_frames": field.batched("audio", keep_on_cpu=True),
            "window_frames": field.flat_from_sizes("audio", sizes("num_windows"), keep_on_cpu=True),
            "num_windows": field.batched("audio", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self, mm_items: MultiModalDataItems, hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:  # fmt: skip
        updates = []
        for kind, token in self.info.opened.placeholders.items():
            if kind in mm_items:
                rows = [media_rows(item) for item in mm_items[kind].get_all()]
                updates.append(
                    PromptReplacement(kind, [token], lambda index, rows=rows, token=token: [token] * rows[index])
                )
        return updates


def _media(hf_data: Mapping[str, object], name: str) -> list[Media]:
    return cast("list[Media]", hf_data.get(name) or [])
