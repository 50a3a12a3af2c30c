"""Register configuration, tokenizer, renderer and model of VITA-1.5 with vLLM."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version

log = logging.getLogger("vita")

ARCHITECTURE = "VITAQwen2ForCausalLM"
MODE = "vita"  # of tokenizer, renderer, media connector and response state parser
TESTED_VERSIONS = ("0.32.",)


def register() -> None:
    """Entry point of vLLM's plugin group `vllm.general_plugins`; may be called several times in a process."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY
    from vllm.reasoning import ReasoningParserManager
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    from vita.plugins.vllm.config import VitaModelDefaults, register_config
    from vita.plugins.vllm.connector import VitaMediaConnector
    from vita.plugins.vllm.parent import follow_parent

    if ARCHITECTURE in ModelRegistry.get_supported_archs():
        return
    warn_if_untested()
    follow_parent()
    register_config()
    MEDIA_CONNECTOR_REGISTRY.register(MODE)(VitaMediaConnector)
    TokenizerRegistry.register(MODE, "vita.plugins.vllm.tokenizer", "VitaTokenizer")
    RENDERER_REGISTRY.register(MODE, "vita.plugins.vllm.renderer", "VitaRenderer")
    ReasoningParserManager.register_lazy_module(MODE, "vita.plugins.vllm.reasoning", "ResponseStateParser")
    MODELS_CONFIG_MAP[ARCHITECTURE] = VitaModelDefaults
    # By name: a class would be imported in processes that must not touch the device.
    ModelRegistry.register_model(ARCHITECTURE, "vita.plugins.vllm.model:VITAQwen2ForCausalLM")


def warn_if_untested() -> None:
    """Log one line if this vLLM is not of a version that the plugin was tested with."""
    try:
        found = version("vllm")
    except PackageNotFoundError:
        found = "unknown"
    if not found.startswith(TESTED_VERSIONS):
        log.warning("the VITA plugin was tested with vLLM %sx, and this is %s", TESTED_VERSIONS[0], found)
