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
from vita.events import Done, TextDelta
from vita.types import MediaOptions

FIVE_TILES = MediaOptions(max_tiles=4)  # of the demo's picture, the thumbnail among them


def best(run: Callable[[], object], repeats: int = 3) -> float:
    """Shortest of some runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def ceilings(dtype: torch.dtype) -> dict[str, float]:
    """Read bandwidth and matrix-vector rate in GB/s, GEMM rates in GFLOP/s."""
    buffer = torch.ones(1 << 27)  # 512 MiB
    x, w = torch.randn(1024, 3584), torch.randn(3584, 3584)
    row, tall = torch.randn(1, 3584).to(dtype), torch.randn(37888, 3584).to(dtype)
    name = str(dtype).removeprefix("torch.")
    out = {
        "read_gb_s": buffer.nbytes / best(buffer.sum) / 1e9,
        f"matvec_{name}_gb_s": tall.nbytes / best(lambda: row @ tall.t()) / 1e9,
        "gemm_float32_gflop_s": 2 * 1024 * 3584**2 / best(lambda: x @ w.t()) / 1e9,
    }
    if dtype != torch.float32:
        xs, ws = x.to(dtype), w.to(dtype)
        rows = 16 if best(lambda: xs[:16] @ ws.t(), 1) > 0.05 else 1024  # a CPU without such a GEMM takes minutes
        seconds = best(lambda: xs[:rows] @ ws.t())
        out[f"gemm_{name}_gflop_s"] = 2 * rows * 3584**2 / seconds / 1e9
    return out


def prefill_flops(model: vita.Vita, length: int) -> float:
    """Multiply-adds, counted twice, of the decoder's products and its attention over a prompt."""
    d = model.engine.model.config.decoder
    tables = 2 * model.engine.model.tokenizer.size * d.hidden_size
    products = 2 * (model.engine.model.parameters["decoder"] - tables) * length
    return products + 2 * d.num_layers * d.hidden_size * length**2  # causal: half of the square, twice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--question", default="Describe this images.")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quantize")
    parser.add_argument("--kv-cache", default="auto")
    args = parser.parse_args()

    start = time.perf_counter()
    model = vita.load(
        args.checkpoint, dtype=args.dtype, device=args.device, quantize=args.quantize, kv_cache=args.kv_cache
    )
    load = time.perf_counter() - start

    begun = time.perf_counter()
    first = None
    message = vita.user(args.question, image=args.picture)
    done = None
    for event in model.stream(
        message, vita.SamplingParams(max_tokens=args.tokens, ignore_eos=True), options=FIVE_TILES
    ):
        if isinstance(event, TextDelta):
            first = first or time.perf_counter() - begun
        elif isinstance(event, Done):
            done = event
    assert done is not None
    t = done.timings
    row = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(model.engine.model.dtype)[6:],
        "parameters": sum(model.engine.model.parameters.values()),
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
        "prefill_tflop_s": prefill_flops(model, done.usage.prompt_tokens) / t.prefill / 1e12,
        **ceilings(model.engine.model.dtype),
    }
    for key, value in row.items():
        print(f"{key:24} {value:.3f}" if isinstance(value, float) else f"{key:24} {value}")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
