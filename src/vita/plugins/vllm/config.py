"""Hugging Face configuration of VITA-1.5, made from either layout of its checkpoint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig, Qwen2Config
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.transformers_utils.config import _ARCHITECTURE_TO_MODEL_TYPE

from vita.checkpoint.read_config import KNOWN_MODEL_TYPES
from vita.config import VitaConfig
from vita.plugins.vllm.checkpoint import OpenedModel, opened_model
from vita.plugins.vllm.register import ARCHITECTURE, MODE

if TYPE_CHECKING:
    from vllm.config import ModelConfig

SERVING_ARCHITECTURE = "Qwen2ForConditionalGeneration"  # in the config.json of the serving layout (spec section 10)


class VitaQwen2Config(PreTrainedConfig):
    """What vLLM needs to know of the model. Everything else is read from the checkpoint, which `name_or_path` names.

    Args:
        text_config: keys of the decoder, or the whole config.json without it (the released layout).
    """

    model_type = KNOWN_MODEL_TYPES[0]
    sub_configs: ClassVar[dict[str, type[Qwen2Config]]] = {"text_config": Qwen2Config}

    def __init__(self, text_config: dict[str, Any] | Qwen2Config | None = None, **kwargs: Any) -> None:
        opened = opened_model(str(kwargs["name_or_path"])) if kwargs.get("name_or_path") else None
        if opened is not None:
            self.text_config = decoder_config(opened)
        elif isinstance(text_config, dict):
            self.text_config = Qwen2Config(**text_config)
        else:
            self.text_config = text_config or Qwen2Config()
        kept = {"name_or_path": kwargs.get("name_or_path", ""), "architectures": [ARCHITECTURE]}
        kept["dtype"] = self.text_config.dtype
        if "quantization_config" in kwargs:
            kept["quantization_config"] = kwargs["quantization_config"]
        super().__init__(
            bos_token_id=self.text_config.bos_token_id, eos_token_id=self.text_config.eos_token_id,
            pad_token_id=self.text_config.pad_token_id, tie_word_embeddings=self.text_config.tie_word_embeddings,
            **kept,
        )  # fmt: skip

    def get_text_config(self, decoder: object = None, encoder: object = None) -> Qwen2Config:
        """The decoder's configuration."""
        return self.text_config


class VitaQwen2LowerCaseConfig(VitaQwen2Config):
    """The same model under the other spelling of its type."""

    model_type = KNOWN_MODEL_TYPES[1]


def decoder_config(opened: OpenedModel) -> Qwen2Config:
    """Qwen2's configuration, with the vocabulary cut to the tokenizer's length (spec section 1.6) and the placeholders
    behind it. They are never sampled, but vLLM's penalties count the prompt's ids in a table of the vocabulary's size:
    an id beyond it would end the engine."""
    config: VitaConfig = opened.checkpoint.config
    decoder = config.decoder
    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"], vocab_size=opened.tokenizer.size + len(opened.placeholders),
        hidden_size=decoder.hidden_size, intermediate_size=decoder.intermediate_size,
        num_hidden_layers=decoder.num_layers, num_attention_heads=decoder.num_heads,
        num_key_value_heads=decoder.num_kv_heads, hidden_act="silu", rms_norm_eps=decoder.rms_norm_eps,
        max_position_embeddings=config.context, use_sliding_window=False,
        rope_parameters={"rope_type": "default", "rope_theta": decoder.rope_theta},
        tie_word_embeddings=decoder.tie_word_embeddings, dtype=config.dtype, bos_token_id=None,
        eos_token_id=sorted(opened.stop_ids), pad_token_id=config.generation.pad_id,
    )  # fmt: skip


def register_config() -> None:
    """Make config.json of both layouts known: by its `model_type`, and by the architecture where the serving layout has
    no such key."""
    for config in (VitaQwen2Config, VitaQwen2LowerCaseConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    _ARCHITECTURE_TO_MODEL_TYPE[SERVING_ARCHITECTURE] = VitaQwen2Config.model_type


class VitaModelDefaults(VerifyAndUpdateConfig):
    """What vLLM changes in its options when it serves this model."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        """Use this package's tokenizer, prompt and media reading."""
        if model_config.tokenizer_mode == "auto":
            model_config.tokenizer_mode = MODE
        # vLLM has no option for the connector but this variable; its children inherit it.
        os.environ.setdefault("VLLM_MEDIA_CONNECTOR", MODE)
