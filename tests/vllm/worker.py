"""Runs vLLM in a process of its own: reads a job, writes what it answered. See `tests.vllm.running`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def answers(llm: Any, step: dict[str, Any]) -> list[dict[str, Any]]:
    """Answers to the conversations of one step, all at once; an error of one conversation is its answer."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError
    from vllm.lora.request import LoRARequest

    params = SamplingParams(temperature=0.0, **step["params"])
    try:
        out = llm.chat(
            step["conversations"], params, use_tqdm=False, mm_processor_kwargs=step.get("mm_processor_kwargs"),
            lora_request=LoRARequest("adapter", 1, step["lora"]) if step.get("lora") else None,
        )  # fmt: skip
    except (ValueError, VLLMValidationError) as error:
        return [{"error": str(error), "kind": type(error).__name__}]
    return [
        {
            "prompt": list(one.prompt_token_ids), "ids": list(one.outputs[0].token_ids), "text": one.outputs[0].text,
            "cached": one.num_cached_tokens, "finish": one.outputs[0].finish_reason,
        }
        for one in out
    ]  # fmt: skip


def main(job_file: Path, out_file: Path) -> None:
    from vllm import LLM, ModelRegistry

    job = json.loads(job_file.read_text(encoding="utf-8"))
    llm = LLM(job["model"], **job["options"])
    loaded = "VITAQwen2ForCausalLM" in ModelRegistry.get_supported_archs()
    result = {"plugin": loaded, "steps": [answers(llm, step) for step in job["steps"]]}
    out_file.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
