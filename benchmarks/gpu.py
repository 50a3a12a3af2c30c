"""What a GPU is asked, in one call: are the kernels right, which cut of the work is fastest, how long do requests take.

    PYTHONPATH=src python benchmarks/gpu.py OUT --picture assets/vita_logo.png [--only check,tune,request,pictures]

`OUT` is the folder of `make_checkpoint.py`; it is made if it is not there. Prints a line a figure, the peaks first;
the last line is JSON. Not part of the tests: it needs a CUDA device with room for 8.3 B parameters.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vita
from vita.bench.peaks import measure_peaks
from vita.engine.cuda_graphs import CudaGraphDecode
from vita.kernels.triton import linear as triton_linear
from vita.kernels.weight import Weight
from vita.model.kv_cache import KVCache, KVCacheBatch
from vita.quant.int4 import quantize_groups, unpack
from vita.quant.int8 import quantize_rows

CUDA = torch.device("cuda")
HIDDEN, WIDE = 3584, 18944
KINDS = {"whole": triton_linear.FLOAT, "int8": triton_linear.INT8, "int4": triton_linear.INT4}
SCHEMES = (None, "int8", "int4")
ANSWER, PICTURES, PICTURE_TOKENS = 300, 48, 64
# Output channels, values a step, warps, steps ahead.
ONE_ROW = [(4, 512, 4, 3), (8, 256, 4, 3), (8, 512, 4, 2), (8, 512, 4, 3), (8, 512, 4, 4), (8, 1024, 4, 3)]
ONE_ROW += [(8, 1024, 8, 3), (4, 1024, 4, 3), (16, 512, 8, 3), (16, 256, 4, 4), (4, 2048, 4, 3), (2, 2048, 4, 3)]
SOME_ROWS = [(16, 128, 4, 4), (16, 256, 4, 3), (32, 128, 4, 3), (32, 128, 4, 4), (32, 128, 4, 5), (32, 256, 4, 3)]
SOME_ROWS += [(64, 64, 4, 4), (64, 128, 4, 3), (64, 128, 4, 4), (64, 128, 8, 4), (128, 64, 8, 4)]


def made_weight(kind: str, channels: int, width: int) -> tuple[Weight, Tensor]:
    """Random, and what it stands for in float64."""
    whole = torch.randn(channels, width) / width**0.5
    if kind == "whole":
        half = whole.bfloat16().to(CUDA)
        return Weight(half, None, None), half.double()
    values, scale = (t.to(CUDA) for t in (quantize_rows(whole) if kind == "int8" else quantize_groups(whole)))
    wide = values.double() * scale.double()[:, None] if kind == "int8" else unpack(values, scale).double()
    return Weight(values, scale, None), wide


def check_products() -> Iterator[tuple[str, float]]:
    """Relative error of every kind of product at released widths, `norm -> gate` and `+ residual`."""
    for kind, rows in itertools.product(KINDS, (1, 2, 16)):
        weight, wide = made_weight(kind, 2 * 1024, HIDDEN)
        x, gain = torch.randn(rows, HIDDEN, device=CUDA).bfloat16(), torch.rand(HIDDEN, device=CUDA).bfloat16() + 0.5
        out = torch.full((rows, 1024), torch.nan, device=CUDA, dtype=torch.bfloat16)
        triton_linear.linear(x, weight, out, norm_weight=gain, eps=1e-6, swiglu=True)
        normed = x.double() * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True) + 1e-6) * gain.double()
        y = normed @ wide.t()
        wanted = torch.nn.functional.silu(y[:, :1024]) * y[:, 1024:]
        yield f"check, gate, {kind}, {rows} rows", float((out.double() - wanted).norm() / wanted.norm())
        weight, wide = made_weight(kind, 1000, WIDE)
        x, out = torch.randn(rows, WIDE, device=CUDA).bfloat16(), torch.randn(rows, 1000, device=CUDA).bfloat16()
        wanted = out.double() + x.double() @ wide.t()
        triton_linear.linear(x, weight, out, residual=out)
        yield f"check, residual, {kind}, {rows} rows", float((out.double() - wanted).norm() / wanted.norm())


@torch.inference_mode()
def check_steps(model: vita.Vita, name: str) -> Iterator[tuple[str, float]]:
    """Relative difference of replayed steps and the decoder's own, of requests behind prompts of several lengths."""
    decoder, config = model.engine.model.decoder, model.engine.model.config.decoder
    steps = model.engine.core.runner.decode
    assert isinstance(steps, CudaGraphDecode)
    for lengths in ((1435,), (3, 700, 1435), (64,) * 16):
        caches = [KVCache(config, n + 8, dtype=torch.bfloat16, device=CUDA) for n in lengths]
        for cache, n in zip(caches, lengths, strict=True):
            decoder((torch.randn(1, n, HIDDEN, device=CUDA) * 0.02).bfloat16(), cache)
        twins = [cache.copy_prefix(cache.length, cache.capacity) for cache in caches]
        tokens = torch.arange(1, len(lengths) + 1, device=CUDA)
        worst = 0.0
        for _ in range(4):
            wanted = decoder.logits(decoder(decoder.embed_tokens(tokens)[:, None], KVCacheBatch(twins)))[:, 0].double()
            got = steps(tokens, caches).double()
            worst = max(worst, float((got - wanted).norm() / wanted.norm()))
            tokens = wanted.argmax(-1)
        yield f"check, steps, {name}, {len(lengths)} requests", worst


def random_weight(kind: str, channels: int, width: int) -> Weight:
    """For timing: values at random, which for rounded ones takes no rounding."""
    if kind == "whole":
        return Weight(torch.randn(channels, width, device=CUDA).bfloat16(), None, None)
    size, scales = (
        ((channels, width), (channels,)) if kind == "int8" else ((channels, width // 2), (channels, width // 64))
    )
    whole = torch.randint(0, 256, size, device=CUDA, dtype=torch.uint8)
    return Weight(
        whole.view(torch.int8) if kind == "int8" else whole, torch.rand(scales, device=CUDA).bfloat16() * 0.01, None
    )


def tune() -> Iterator[tuple[str, float]]:
    """GB/s of the two largest products of a block, for each way to cut the work; the way that is used comes first."""
    for (kind, number), rows in itertools.product(KINDS.items(), (1, 8)):
        tried = [triton_linear.BLOCK_SHAPES[number, rows == 1]]
        tried += [triton_linear.BlockShape(*cut) for cut in (ONE_ROW if rows == 1 else SOME_ROWS)]
        gate_up, down = random_weight(kind, 2 * WIDE, HIDDEN), random_weight(kind, HIDDEN, WIDE)
        x, h = torch.randn(rows, HIDDEN, device=CUDA).bfloat16(), torch.randn(rows, WIDE, device=CUDA).bfloat16()
        gain = torch.ones(HIDDEN, device=CUDA).bfloat16()
        for cut in tried:
            gate = partial(triton_linear.linear, x, gate_up, h, norm_weight=gain, eps=1e-6, swiglu=True, blocks=cut)
            add = partial(triton_linear.linear, h, down, torch.empty_like(x), residual=x, blocks=cut)
            for name, weight, run in (("gate", gate_up, gate), ("down", down, add)):
                label = f"tune, {name}, {kind}, {rows} rows, {cut}"
                rate = rate_of(run, weight, label)
                if rate is not None:
                    yield label, rate


def rate_of(run: Callable[[], None], weight: Weight, label: str) -> float | None:
    """GB/s of weights; None, and a word about it, of a cut that this GPU has no room for."""
    from triton.testing import do_bench

    read = weight.values.nbytes + (0 if weight.scale is None else weight.scale.nbytes)
    try:
        return float(read / do_bench(run, warmup=5, rep=30, return_mode="median") / 1e6)
    except Exception as error:  # Triton's failures have no common class
        print(f"{label}: {type(error).__name__}", flush=True)
        return None


def request(model: vita.Vita, name: str, picture: Path) -> Iterator[tuple[str, float]]:
    """The demo request, warm: seconds to the first token and in all, tokens a second."""
    for tokens in (8, ANSWER):
        model.engine.clear_caches()
        params = vita.SamplingParams(max_tokens=tokens, ignore_eos=True)  # random weights: always the full count
        five = vita.MediaOptions(max_tiles=4)  # of the demo's picture, the thumbnail among them
        result = model.ask("Describe this images.", images=[picture], params=params, options=five)
    t = result.timings
    for stage in ("media", "preprocess", "vision", "prefill", "first_token", "total"):
        yield f"request, {name}, {stage} s", getattr(t, stage)
    yield f"request, {name}, tokens/s", t.tokens_per_second
    yield f"request, {name}, GB/s", t.gigabytes_per_second
    yield f"request, {name}, peak GB", t.peak_memory / 1e9


def pictures(model: vita.Vita, name: str) -> Iterator[tuple[str, float]]:
    """Pictures of one tile a second, sixteen asked about at a time, 64 tokens each."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (448, 448, 3), np.uint8) for _ in range(PICTURES)]
    params = vita.SamplingParams(max_tokens=PICTURE_TOKENS, ignore_eos=True)

    def ask(image: Any) -> None:
        model.ask("Describe this images.", images=[image], params=params)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, images[:16]))  # warm
        model.engine.clear_caches()
        start = time.perf_counter()
        list(pool.map(ask, images))
        yield f"pictures, {name}, a second", PICTURES / (time.perf_counter() - start)


def figures(args: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """All that was asked for, in order."""
    only = args.only.split(",")
    for name, value in measure_peaks(CUDA, torch.bfloat16).items():
        yield f"peak, {name}", value
    if "check" in only:
        yield from check_products()
    if "tune" in only:
        yield from tune()
    if not {"check", "request", "pictures"} & set(only):
        return
    if not args.out.is_dir():
        subprocess.run([sys.executable, Path(__file__).with_name("make_checkpoint.py"), args.out], check=True)
    for scheme in SCHEMES:
        name = scheme or "bfloat16"
        start = time.perf_counter()
        model = vita.load(args.out, device="cuda", quantize=scheme)
        yield f"load, {name}, s", time.perf_counter() - start
        if "check" in only:
            yield from check_steps(model, name)
        if "request" in only:
            yield from request(model, name, args.picture)
        if "pictures" in only:
            yield from pictures(model, name)
        del model
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--only", default="check,tune,request,pictures")
    args = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    found = {}
    try:
        for name, value in figures(args):
            found[name] = value
            print(f"{name:70} {value:.6g}", flush=True)
    finally:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
