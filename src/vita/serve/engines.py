"""The engine that answers: this package's own, or vLLM's. Options that the other cannot honour are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vita.errors import RequestError, ResourceError
from vita.serve.options import VITA_ENGINE, VLLM_ENGINE
from vita.speech.voice import CHECKPOINT_VOICE

if TYPE_CHECKING:
    from vita.options import EngineOptions
    from vita.serve.options import ServeOptions
    from vita.serve.served_model import ServedModel


EXAMPLE = 'write {"tensor_parallel_size": 2}'


def check_engine(engine: EngineOptions, options: ServeOptions) -> None:
    """Refuse what the chosen engine cannot do, before anything is loaded.

    Raises:
        RequestError: an option that it does not honour. ResourceError: vLLM is not installed.
    """
    if options.engine == VITA_ENGINE:
        if options.engine_args:
            raise RequestError("are vLLM's", where="engine_args", fix="add `engine` vllm, or leave them out")
        return
    instead = {
        "device": (engine.device != "auto", "vLLM chooses the device"),
        "quantize": (engine.scheme is not None, 'vLLM has formats of its own, such as {"quantization": "fp8"}'),
        "kv_cache": (engine.quantized_kv_cache, 'vLLM has formats of its own, such as {"kv_cache_dtype": "fp8"}'),
        "memory": (engine.memory is not None, 'use vLLM\'s own limit, such as {"gpu_memory_utilization": 0.8}'),
    }
    for name, (is_set, why) in instead.items():
        if is_set:
            raise RequestError("is not an option of the engine vllm", where=name, fix=f"{why} in `engine_args`")
    refuse_checkpoint_voice(options.voice)
    read_arguments(options.engine_args)
    if find_spec("vllm") is None:
        raise ResourceError(
            "the engine vllm needs the package vllm, which is not installed", fix='run pip install "vita-engine[vllm]"'
        )


def read_arguments(text: str) -> Mapping[str, object]:
    """vLLM's engine arguments from a JSON object; none from an empty text.

    Raises:
        RequestError: it is none.
    """
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise RequestError(f"is not JSON ({error})", where="engine_args", fix=EXAMPLE) from error
    if not isinstance(found, dict):
        raise RequestError("must be a JSON object", where="engine_args", fix=EXAMPLE)
    return found


def refuse_checkpoint_voice(name: str | None) -> None:
    """Refuse the checkpoint's own voice for an engine that does not compute it.

    Raises:
        ResourceError: it was named.
    """
    if name == CHECKPOINT_VOICE:
        raise ResourceError(
            "the engine vllm does not compute the checkpoint's own voice", where="voice",
            fix="name another voice, such as espeak or piper",
        )  # fmt: skip


def load_served(model: str | None, engine: EngineOptions, options: ServeOptions) -> ServedModel:
    """The model on the engine that was chosen, warm.

    Args:
        model: folder or hub id; None: the embedded model.
        engine: its options, checked by `check_engine`.
        options: of the server.

    Raises:
        VitaError: it cannot be loaded.
    """
    found: ServedModel
    if options.engine == VLLM_ENGINE:
        from vita.plugins.vllm.start import set_environment

        set_environment(engine.threads)
        from vita.plugins.vllm.served import load_vllm

        return load_vllm(model, engine, read_arguments(options.engine_args))
    from vita.api import load_with_options

    found = load_with_options(model, engine)
    found.warm_up()
    return found
