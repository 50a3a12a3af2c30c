"""VITA-1.5 as a vLLM model: this package's encoders as towers, vLLM's Qwen2 as the language model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsLoRA, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from vita.config import VitaConfig
from vita.layers.linear import choose_route, set_route
from vita.media.audio_frames import token_count
from vita.media.normalise import normalise_pixels
from vita.model.audio import AudioEncoder
from vita.model.projectors import AudioAdapter, Projector
from vita.model.vision import VisionEncoder
from vita.plugins.vllm.checkpoint import PLACEHOLDERS, opened_model
from vita.plugins.vllm.processor import VitaDummyInputs, VitaMultiModalProcessor, VitaProcessingInfo
from vita.plugins.vllm.weights import LANGUAGE_MODEL, TOWERS, cut_vocabulary, weights_mapper

CPU_TILES, DEVICE_TILES = 4, 16  # encoded together


@MULTIMODAL_REGISTRY.register_processor(VitaMultiModalProcessor, info=VitaProcessingInfo, dummy_inputs=VitaDummyInputs)
class VITAQwen2ForCausalLM(nn.Module, SupportsMultiModal, SupportsPP, SupportsLoRA):
    """The complete model.

    The encoders are replicated on every rank of a tensor-parallel group and never quantised. The language model is
    vLLM's own, with its parallelism and quantisation.
    """

    if TYPE_CHECKING:  # of the interfaces, which mypy does not see
        configure_mm_token_handling: Callable[[int, list[int]], None]
        _mark_tower_model: Callable[[VllmConfig, str | set[str]], AbstractContextManager[None]]
        _mark_language_model: Callable[[VllmConfig], AbstractContextManager[None]]

    hf_to_vllm_mapper = weights_mapper()
    packed_modules_mapping = {  # noqa: RUF012  # read by vLLM from the class
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """How a prompt that is text names an item."""
        return PLACEHOLDERS[modality]

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.opened = opened_model(vllm_config.model_config.hf_config.name_or_path)
        self.config: VitaConfig = self.opened.checkpoint.config
        text_config = vllm_config.model_config.hf_config.text_config
        self.vocab_size = self.opened.tokenizer.size  # of tokens that may be sampled; the placeholders are behind them
        self.rows: int = text_config.vocab_size
        self.dtype: torch.dtype = vllm_config.model_config.dtype
        hidden = self.config.decoder.hidden_size
        self.configure_mm_token_handling(self.vocab_size, list(self.opened.placeholders.values()))
        with self._mark_tower_model(vllm_config, {"image", "video"}):
            self.vision = VisionEncoder(self.config.vision)
            self.projector = Projector(4 * self.config.vision.hidden_size, hidden, self.config.projector_layers)
        with self._mark_tower_model(vllm_config, "audio"):
            self.audio = AudioEncoder(self.config.audio)
            self.adapter = AudioAdapter(self.config.audio, hidden)
        if isinstance(self.audio, AudioEncoder):  # else this server takes no audio
            for name in ("cmvn_mean", "cmvn_istd"):  # statistics stay float32
                values = getattr(self.audio, name).data.float()
                setattr(self.audio, name, nn.Parameter(values, requires_grad=False))
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config, hf_config=text_config, prefix=maybe_prefix(prefix, LANGUAGE_MODEL),
                architectures=["Qwen2ForCausalLM"],
            )  # fmt: skip
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the checkpoint's tensors by their own names; returns the names of the parameters that were loaded."""
        loader = AutoWeightsLoader(self)
        loaded: set[str] = loader.load_weights(cut_vocabulary(weights, self.rows), mapper=self.hf_to_vllm_mapper)
        for part in TOWERS:
            module = getattr(self, part).requires_grad_(False)
            device = next((parameter.device for parameter in module.parameters()), None)
            if device is not None:  # else this server takes no such media
                set_route(module, choose_route(device, self.dtype)[0])
        return loaded | self._load_statistics(loaded)

    def _load_statistics(self, loaded: set[str]) -> set[str]:
        """Audio statistics of a checkpoint that holds them beside its tensors."""
        names = {"audio.cmvn_mean", "audio.cmvn_istd"}
        cmvn = self.opened.checkpoint.cmvn
        if names <= loaded or cmvn is None or not isinstance(self.audio, AudioEncoder):
            return set()
        self.audio.cmvn_mean.data.copy_(cmvn[0])
        self.audio.cmvn_istd.data.copy_(cmvn[1])
        return names

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """Encoder rows of each item, `[rows, H]`, in the order of the items."""
        data = cast("dict[str, Tensor]", kwargs)
        rows: list[Tensor] = []
        # Images, videos and audio come in calls of their own, or in the order of their keys.
        for name in data:
            if name == "tiles":
                rows += self._encode_tiles(data["tiles"], data["num_tiles"])
            elif name == "frames":
                rows += self._encode_tiles(data["frames"], data["num_frames"])
            elif name == "banks":
                rows += self._encode_audio(data)
        return tuple(rows)

    def _encode_tiles(self, tiles: Tensor, counts: Tensor) -> list[Tensor]:
        """Rows of each item from tiles of all, uint8 `[n, S, S, 3]`."""
        batch = CPU_TILES if tiles.device.type == "cpu" else DEVICE_TILES
        encoded = [
            self.projector(self.vision(normalise_pixels(part, self.config.image))) for part in tiles.split(batch)
        ]
        rows = torch.cat(encoded)  # [n, rows of a tile, H]
        return [item.flatten(0, 1) for item in rows.split([int(n) for n in counts.flatten().tolist()])]

    def _encode_audio(self, data: dict[str, Tensor]) -> list[Tensor]:
        """Rows of each clip from the filterbanks of all windows, float32 `[frames, bins]`."""
        frames = [int(n) for n in data["window_frames"].flatten().tolist()]
        windows = [self._encode_window(bank) for bank in data["banks"].split(frames)]
        out: list[Tensor] = []
        for count in data["num_windows"].flatten().tolist():
            out.append(torch.cat(windows[: int(count)]))
            windows = windows[int(count) :]
        return out

    def _encode_window(self, bank: Tensor) -> Tensor:
        """Filterbank frames `[T, bins]` of one window to decoder rows `[rows, H]`."""
        frames = bank.shape[0]
        subsampled = torch.cat(list(self.audio.subsample_pieces(bank[None])), dim=1)
        states = deque(self.audio.packed_states([subsampled]), maxlen=1)  # frees the earlier ones
        hidden = states.pop()
        rows, _ = self.adapter(hidden, hidden.new_ones(hidden.shape[:2], dtype=torch.bool))
        return cast(Tensor, rows[0, : token_count(frames) + self.config.audio.prompt_tokens])

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: MultiModalEmbeddings | None = None, *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Token embeddings `[n, H]`, with encoder rows at the placeholders.

        Placeholders lie behind the vocabulary. Also those that are no item's, as n-gram speculation may draft them, are
        kept off the table.
        """
        ids = input_ids.masked_fill(input_ids >= self.vocab_size, 0)
        if multimodal_embeddings is None or is_multimodal is None:
            return cast(Tensor, super().embed_input_ids(ids))
        return cast(Tensor, super().embed_input_ids(ids, multimodal_embeddings, is_multimodal=is_multimodal))

    def forward(
        self, input_ids: Tensor | None, positions: Tensor, intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None, **kwargs: Any,
    ) -> Tensor | IntermediateTensors:  # fmt: skip
        """Hidden states `[n, H]` of a flat batch; see vLLM's Qwen2."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits `[n, rows]`; those of the placeholders are -inf."""
        logits: Tensor | None = self.language_model.compute_logits(hidden_states)
        if logits is not None:  # this rank has them
            logits[:, self.vocab_size :] = -torch.inf
        return logits

    def get_mm_mapping(self) -> MultiModelKeys:
        """Which parts are language model, connectors and towers."""
        return MultiModelKeys.from_string_field(
            language_model=LANGUAGE_MODEL, connector=["projector", "adapter"], tower_model=["vision", "audio"]
        )
