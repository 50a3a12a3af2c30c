"""The demo request on a checkpoint of any size: load time, time to first token, tokens/s, peak memory, ceilings.

    python benchmarks/demo_request.py CHECKPOINT --picture assets/vita_logo.png --tokens 32

Prints a table for people; the last line is JSON. The ceilings are measured in the same run: how fast this machine
reads memory, and how fast it multiplies in float32 and in the working dtype.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

import vita
from vita.types import TextDelta


def best(run: Callable[[], object], repeats: int = 3) -> float:
    """Shortest of some runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def ceilings(dtype: torch.dtype) -> dict[str, float]:
    """Read bandwidth in GB/s and GEMM rates in GFLOP/s."""
    buffer = torch.ones(1 << 27)  # 512 MiB
    x, w = torch.randn(512, 3584), torch.randn(3584, 3584)
    flops = 2 * 512 * 3584**2
    out = {
        "read_gb_s": buffer.numel() * 4 / best(buffer.sum) / 1e9,
        "gemm_float32_gflop_s": flops / best(lambda: x @ w.t()) / 1e9,
    }
    if dtype != torch.float32:
        xs, ws = x[:16].to(dtype), w.to(dtype)
        out[f"gemm_{str(dtype)[6:]}_gflop_s"] = flops / 32 / best(lambda: xs @ ws.t(), 1) / 1e9
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--question", default="Describe this images.")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    start = time.perf_counter()
    model = vita.load(args.checkpoint, dtype=args.dtype, device=args.device)
    load = time.perf_counter() - start
    model.engine.stop_ids = frozenset()  # random weights: always the full count of tokens

    begun = time.perf_counter()
    first = None
    message = vita.user(args.question, image=args.picture)
    done = None
    for event in model.stream(message, vita.SamplingParams(max_tokens=args.tokens)):
        if isinstance(event, TextDelta):
            first = first or time.perf_counter() - begun
        else:
            done = event
    assert done is not None
    t = done.timings
    row = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(model.engine.dtype)[6:],
        "parameters": sum(model.engine.parameters.values()),
        "prompt_tokens": done.usage.prompt_tokens,
        "tiles": done.usage.tiles,
        "load_s": load,
        "media_s": t.media,
        "preprocess_s": t.preprocess,
        "load_vision_s": t.load,
        "vision_s": t.vision,
        "prefill_s": t.prefill,
        "first_token_s": t.first_token,
        "decode_tok_s": t.tokens_per_second,
        "decode_gb_s": t.gigabytes_per_second,
        "total_s": t.total,
        "peak_gb": t.peak_memory / 1e9,
        **ceilings(model.engine.dtype),
    }
    for key, value in row.items():
        print(f"{key:24} {value:.3f}" if isinstance(value, float) else f"{key:24} {value}")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
