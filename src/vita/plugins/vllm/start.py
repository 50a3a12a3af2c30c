"""Start vLLM's engine for a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from vita.errors import RequestError, ResourceError, VitaError
from vita.plugins.vllm.parent import VARIABLE

if TYPE_CHECKING:  # `set_environment` is called before vLLM is imported
    from vita.options import EngineOptions
    from vita.plugins.vllm.statistics import Statistics

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
MAX_LOGPROBS = 100
DRAIN_SECONDS = 30  # that vLLM's process goes on with what it has if SIGTERM is sent to it, too
# vLLM has no arguments for these. Its processes inherit them.
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing is sent to its makers
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # threads run here already, and their locks would be forked with them
    "VLLM_LOGGING_LEVEL": "WARNING",
    VARIABLE: "1",
}


def set_environment(threads: int | None) -> None:
    """Set the variables that vLLM is told some options by; called before it is imported. Those that are set stay.

    Args:
        threads: CPU threads that compute; None: vLLM binds its threads to all cores.
    """
    variables = dict(ENVIRONMENT)
    if threads is not None:
        variables |= {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    for name, value in variables.items():
        os.environ.setdefault(name, value)


async def start_vllm(
    folder: str, options: EngineOptions, arguments: Mapping[str, object], statistics: Statistics
) -> Any:
    """vLLM's AsyncLLM; it belongs to the running event loop.

    Args:
        folder: of the checkpoint.
        options: see `VllmEngine`.
        arguments: of vLLM's AsyncEngineArgs.
        statistics: told what each step brings.

    Raises:
        RequestError: an argument that vLLM does not have, or cannot use. ResourceError: it cannot start.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from vita.plugins.vllm import reasoning_limit
    from vita.plugins.vllm.checkpoint import opened_model

    settings: dict[str, Any] = {
        "dtype": DTYPES.get(options.dtype, options.dtype), "kv_cache_memory_bytes": options.kv_budget,
        "scheduling_policy": "priority", "max_logprobs": MAX_LOGPROBS, "shutdown_timeout": DRAIN_SECONDS,
        "generation_config": "vllm",  # what the checkpoint says of sampling is read here
        "disable_log_stats": True,
    }  # fmt: skip
    settings |= arguments
    if opened_model(folder).tokenizer.reasoning is not None:
        if settings.get("speculative_config"):
            raise RequestError(
                "this checkpoint writes a reasoning, which vLLM cannot bound with speculative decoding",
                where="engine_args", fix="leave speculative_config out",
            )  # fmt: skip
        settings["logits_processors"] = [*(settings.get("logits_processors") or ()), reasoning_limit.NAME]
    try:
        config = AsyncEngineArgs(model=folder, **settings).create_engine_config()
    except TypeError as error:
        raise RequestError(f"vLLM does not take it ({error})", where="engine_args") from error
    except (ValidationError, ValueError) as error:
        raise RequestError(_first_line(error), where="engine_args", fix="see vLLM's engine arguments") from error
    try:
        llm = AsyncLLM.from_vllm_config(config, stat_loggers=[statistics.logger], disable_log_stats=True)
    except VitaError:
        raise
    except Exception as error:
        raise ResourceError(f"vLLM cannot start: {_first_line(error)}", fix="its log above says more") from error
    statistics.set_kv_budget(config)
    return llm


def _first_line(error: Exception) -> str:
    """The first complaint of an error, of pydantic's too."""
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"]).rstrip(".")
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
