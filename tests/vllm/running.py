"""Conversations for both engines, and a process that asks vLLM."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vita
from vita.types import Audio, Image, MediaOptions, Message, SamplingParams, Text

WORKER = Path(__file__).with_name("worker.py")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING",
}  # fmt: skip
OPTIONS: dict[str, Any] = {
    "dtype": "float32", "kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 16, "enforce_eager": True, "seed": 0,
}  # fmt: skip
SHARED_MEMORY = Path("/dev/shm")
TIMEOUT = 600  # seconds; a start takes 15 on a quiet machine


@dataclass(frozen=True)
class Answered:
    """An answer of vLLM, or the error that it was."""

    prompt: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    text: str = ""
    cached: int = 0
    finish: str = ""
    error: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Step:
    """Conversations that are asked together, as OpenAI messages; `lora` is the folder of an adapter, `extra` are
    `extra_args` of the sampling."""

    conversations: list[list[dict[str, Any]]]
    tokens: int = 24
    mm_processor_kwargs: dict[str, Any] | None = None
    lora: Path | None = None
    extra: dict[str, Any] | None = None


def ask_vllm(
    model: Path | str, work: Path, steps: Sequence[Step], processes: bool = False,
    environment: dict[str, str] | None = None, **options: Any,
) -> list[list[Answered]]:  # fmt: skip
    """Start vLLM on a checkpoint, ask each step in turn, and end it.

    Args:
        model: folder of the checkpoint, or its name on the hub.
        work: for the job's files.
        steps: in order.
        processes: vLLM computes in a process of its own; with several ranks it always does.
        environment: more variables of it.
        options: of `vllm.LLM`.
    """
    job = {
        "model": str(model), "options": OPTIONS | options,
        "steps": [
            {"conversations": s.conversations, "params": {"max_tokens": s.tokens, "extra_args": s.extra},
             "mm_processor_kwargs": s.mm_processor_kwargs, "lora": str(s.lora) if s.lora else None}
            for s in steps
        ],
    }  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    variables = os.environ | ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(processes))}
    if processes:
        variables |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    variables |= environment or {}
    before = set(SHARED_MEMORY.glob("vllm_dist*"))
    done = subprocess.run(
        [sys.executable, str(WORKER), str(work / "job.json"), str(work / "out.json")],
        env=variables, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    for left in set(SHARED_MEMORY.glob("vllm_dist*")) - before:  # vLLM's ranks leave it behind
        left.unlink(missing_ok=True)
    assert done.returncode == 0, f"vLLM ended with {done.returncode}: {done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    result = json.loads((work / "out.json").read_text(encoding="utf-8"))
    assert result["plugin"], "vLLM only logs that a plugin fails to load"
    return [
        [Answered(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()}) for one in step]
        for step in result["steps"]
    ]


def ask_engine(
    model: vita.Vita, messages: Sequence[Message], tokens: int = 24, options: MediaOptions | None = None
) -> tuple[int, ...]:
    """Greedy ids of this package's own engine. Of vLLM's, `max_tokens` counts those of the reasoning too."""
    params = SamplingParams(max_tokens=tokens)
    return vita.Result.collect(model.stream(list(messages), params, options=options)).token_ids[:tokens]


def as_openai(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The same conversation as OpenAI messages, media as data: URLs."""
    out = []
    for message in messages:
        parts: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, Text):
                parts.append({"type": "text", "text": part.text})
            elif isinstance(part, Image):
                parts.append({"type": "image_url", "image_url": {"url": data_url(part.source, "image/png")}})
            elif isinstance(part, Audio):
                parts.append({"type": "audio_url", "audio_url": {"url": data_url(part.source, "audio/wav")}})
            elif isinstance(part.source, (list, tuple)):
                frames = ",".join(base64.b64encode(Path(frame).read_bytes()).decode() for frame in part.source)
                parts.append({"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}})
            else:
                parts.append({"type": "video_url", "video_url": {"url": data_url(part.source, "video/mp4")}})
        only_text = len(parts) == 1 and parts[0]["type"] == "text"
        out.append({"role": message.role, "content": parts[0]["text"] if only_text else parts})
    return out


def data_url(file: object, kind: str) -> str:
    """The file's bytes, encoded."""
    data = file if isinstance(file, bytes) else Path(str(file)).read_bytes()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
