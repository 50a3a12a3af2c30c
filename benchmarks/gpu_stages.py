"""The stages of `gpu.py`: each yields figures as (label, value)."""

from __future__ import annotations

import argparse
import gc
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vita
from vita.bench.peaks import measure_peaks
from vita.kernels.weight import Weight
from vita.model.kv_cache import KVCache, KVCacheBatch
from vita.quant.int4 import quantize_groups
from vita.quant.int8 import quantize_rows

ROOT = Path(__file__).parents[1]
HIDDEN, INTERMEDIATE, QKV = 3584, 18944, 4608  # of the released decoder
FORMATS = ("float", "int8", "int4")
SCHEMES = ("plain", "int4", "int8")  # of the model, in the order of the stages
IMAGE_TOKENS, AT_A_TIME, PEER_TOKENS = 64, 16, 100
Figures = Iterator[tuple[str, float]]


class Skipped(Exception):
    """Why a stage did not run."""


class Context:
    """What stages share: the arguments, the clock, and one loaded model at a time.

    Args:
        args: of `gpu.py`.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        self._end = time.perf_counter() + args.seconds

    def left(self) -> float:
        """Seconds that are left of the budget."""
        return self._end - time.perf_counter()

    def need_cuda(self) -> None:
        """Skip a stage that needs a GPU."""
        if self.device.type != "cuda":
            raise Skipped("it needs CUDA")

    def checkpoint(self) -> Path:
        """The checkpoint's folder, which is made at the released sizes if it does not exist."""
        folder: Path = self.args.checkpoint
        if not folder.is_dir():
            self.need_cuda()
            make = [sys.executable, str(ROOT / "benchmarks" / "make_checkpoint.py"), str(folder)]
            subprocess.run(make, check=True)
        return folder


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        run: yields its figures.
        least: seconds that it takes at least.
    """

    run: Callable[[Context], Figures]
    least: float


def peaks(context: Context) -> Figures:
    """Peak rates: GB/s of reading, TFLOP/s of GEMM."""
    yield from measure_peaks(context.device, torch.bfloat16).items()


def verify(context: Context) -> Figures:
    """Rows of the committed reference set that pass and fail, in float32 and bfloat16."""
    from vita.options import EngineOptions
    from vita.verify import run

    for dtype in ("float32", "bfloat16"):
        options = EngineOptions(device=context.args.device, dtype=dtype)
        rows = list(run(ROOT / "tests" / "goldens" / "mini", options))
        failed = [row for row in rows if row.status == "fail"]
        yield f"{dtype}, passed", sum(row.status == "pass" for row in rows)
        yield f"{dtype}, failed", len(failed)
        if failed:
            raise AssertionError(f"{dtype}: {failed}")


def made_weight(kind: str, channels: int, width: int, device: torch.device) -> Weight:
    """Random, as the model stores it."""
    floats = torch.randn(channels, width, device=device) / width**0.5
    if kind == "float":
        return Weight(floats.bfloat16(), None, None)
    return Weight(*(quantize_rows(floats) if kind == "int8" else quantize_groups(floats)), None)


def check(context: Context) -> Figures:
    """Relative difference of every backend from PyTorch's operations, at released widths; 0.03 is allowed."""
    context.need_cuda()
    from vita.kernels.matmul import TOLERANCE, TRIAL_ROWS, trial
    from vita.kernels.triton.backends import cuda_chooser

    chooser, worst = cuda_chooser(torch.bfloat16), 0.0
    failures: list[str] = []
    for kind, (channels, width, swiglu) in itertools.product(
        FORMATS, ((2048, HIDDEN, True), (1024, INTERMEDIATE, False))
    ):
        weight = made_weight(kind, channels, width, context.device)
        for rows, count in TRIAL_ROWS.items():
            for backend in (*chooser.backends[rows], *chooser.converting):
                if not backend.supports(weight, torch.bfloat16):
                    continue
                label = f"{backend.name}, {kind} [{channels}, {width}], {count} rows"
                try:
                    value = trial(backend.bind(weight), count, weight, torch.bfloat16, swiglu=swiglu)
                except Exception as error:  # of the library or its compiler: the model falls back
                    print(f"{label}: {type(error).__name__}: {error}", flush=True)
                    yield label, float("inf")
                    continue
                yield label, value
                worst = max(worst, value)
                failures += [label] if value > TOLERANCE else []
    yield "largest difference", worst
    wrong = wrong_tiles(context)
    yield "tiles copied ahead, wrong values", wrong
    failures += ["tiles copied ahead"] if wrong else []
    if failures:
        raise AssertionError(f"wrong results: {failures}")


def wrong_tiles(context: Context) -> int:
    """Values of tiles that differ from the CPU's, when their pixels are copied while another batch is encoded."""
    import numpy as np

    from vita.config import ImagePreprocess
    from vita.engine.tile_copies import StreamCopier, TileCopies
    from vita.media.normalise import normalise
    from vita.types import MediaSpan

    rng, preprocess = np.random.default_rng(0), ImagePreprocess(size=448, crop=448)
    pixels = [rng.integers(0, 256, (448, 448, 3), np.uint8) for _ in range(26)]
    spans = [MediaSpan("image", b"%d" % k, 256, (tile,)) for k, tile in enumerate(pixels)]
    copies, wrong = TileCopies(StreamCopier(context.device), preprocess), 0
    for first in (0, 13):
        got = copies.normalised(spans[first : first + 13])
        copies.prefetch(spans[first + 13 : first + 26])
        busy = got.flatten(1) @ got.flatten(1).t()  # computes beside the copy
        wanted = normalise(pixels[first : first + 13], preprocess, torch.device("cpu"))
        wrong += int((got.cpu() != wanted).sum()) + int(not busy.isfinite().all())
    return wrong


def load(context: Context, scheme: str) -> vita.Vita:
    """A model in a format; `plain`: as stored."""
    return vita.load(context.checkpoint(), device=context.args.device, quantize=None if scheme == "plain" else scheme)


def free(context: Context) -> None:
    """Give back what a model held."""
    gc.collect()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def request(scheme: str, context: Context) -> Figures:
    """One format: load, the demo request, steps against the decoder's own operations, many images."""
    free(context)
    start = time.perf_counter()
    model = load(context, scheme)
    try:
        model.warm_up()
        yield "load s", time.perf_counter() - start
        yield from demo(context, model)
        if context.device.type == "cuda":
            yield from steps(context, model)
        yield from images(context, model)
    finally:
        model.close()
        del model
        free(context)


def demo(context: Context, model: vita.Vita) -> Figures:
    """The demo request, warm; then a second question about the same image."""
    params = vita.SamplingParams(max_tokens=context.args.tokens, ignore_eos=True)  # random weights: the full count
    four = vita.MediaOptions(max_tiles=4)  # and the thumbnail
    for _ in range(2):
        model.engine.clear_caches()
        result = model.ask("Describe this images.", images=[context.args.image], params=params, options=four)
    t = result.timings
    for stage in ("media", "preprocess", "vision", "prefill", "first_token", "total"):
        yield f"{stage} s", getattr(t, stage)
    yield "tokens/s", t.tokens_per_second
    yield "GB/s", t.gigabytes_per_second
    yield "peak GB", t.peak_memory / 1e9
    chat, few = model.chat(options=four), vita.SamplingParams(max_tokens=4, ignore_eos=True)
    chat.ask("Describe this images.", images=[context.args.image], params=few)
    result = chat.ask("What is in the corner?", params=few)
    yield "second question, first_token s", result.timings.first_token


@torch.inference_mode()
def steps(context: Context, model: vita.Vita) -> Figures:
    """Replayed steps and prefills against the decoder's own operations, and milliseconds of a step by requests."""
    from vita.engine.cuda_graphs import CudaGraphDecode

    decoder, config = model.engine.model.decoder, model.engine.model.config.decoder
    runner, fast = model.engine.core.runner.decode, decoder.fast_prefill
    if not isinstance(runner, CudaGraphDecode):
        raise AssertionError("decode steps are not recorded")
    for lengths in ((1435,), (3, 700, 1435), (64,) * 16):
        pairs = [[KVCache(config, n + 8, dtype=torch.bfloat16, device=context.device) for _ in "ab"] for n in lengths]
        prefilled = 0.0
        for (cache, twin), n in zip(pairs, lengths, strict=True):
            embeds = (torch.randn(1, n, config.hidden_size, device=context.device) * 0.02).bfloat16()
            got = decoder(embeds, cache)
            decoder.fast_prefill = None
            prefilled = max(prefilled, difference(got, decoder(embeds, twin)))
            decoder.fast_prefill = fast
        yield f"prefill of {lengths[0]}, difference", prefilled
        caches, twins = [list(column) for column in zip(*pairs, strict=True)]
        tokens, worst = torch.arange(1, len(lengths) + 1, device=context.device), 0.0
        for _ in range(4):
            decoder.fast_prefill = None
            rows = decoder.embed_tokens(tokens)[:, None]
            wanted = decoder.logits(decoder(rows, KVCacheBatch(twins)))[:, 0]
            decoder.fast_prefill = fast
            worst = max(worst, difference(runner(tokens, caches), wanted))
            tokens = wanted.argmax(-1)
        yield f"steps of {len(lengths)}, difference", worst
    for count in (1, 2, 8, 16):
        caches = [KVCache(config, 512, dtype=torch.bfloat16, device=context.device) for _ in range(count)]
        tokens = torch.zeros(count, dtype=torch.int64, device=context.device)
        yield f"step of {count}, ms", 1e3 * seconds(lambda caches=caches, tokens=tokens: runner(tokens, caches))  # type: ignore[misc]
    for n in (11, 60, 416, 1435):
        embeds, cache = torch.zeros(1, n, config.hidden_size, device=context.device).bfloat16(), None

        def prefill(n: int = n, embeds: Tensor = embeds) -> None:
            decoder(embeds, KVCache(config, n, dtype=torch.bfloat16, device=context.device))

        yield f"prefill of {n}, first ms", 1e3 * seconds(prefill, repeats=1, warm=False)
        yield f"prefill of {n}, ms", 1e3 * seconds(prefill)
    del cache


def difference(got: Tensor, wanted: Tensor) -> float:
    """Relative difference of two tensors."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def seconds(run: Callable[[], object], repeats: int = 10, warm: bool = True) -> float:
    """Median seconds of a call, synchronised."""
    if warm:
        run()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def images(context: Context, model: vita.Vita) -> Figures:
    """Images of one tile a second, sixteen asked about at a time."""
    import numpy as np

    rng, side = np.random.default_rng(0), model.engine.model.config.vision.image_size
    pixels = [rng.integers(0, 255, (side, side, 3), np.uint8) for _ in range(context.args.images)]
    params = vita.SamplingParams(max_tokens=min(IMAGE_TOKENS, context.args.tokens), ignore_eos=True)

    def ask(image: Any) -> None:
        model.ask("Describe this images.", images=[image], params=params)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(ask, pixels[:AT_A_TIME]))  # warm
        model.engine.clear_caches()
        start = time.perf_counter()
        list(pool.map(ask, pixels))
        yield "images/s", len(pixels) / (time.perf_counter() - start)


def memory(context: Context) -> Figures:
    """What `vita info` predicts, in GB, to be compared with the peaks of the formats' stages."""
    from vita.cli.info import collect
    from vita.options import EngineOptions

    for scheme in SCHEMES:
        options = EngineOptions(device=context.args.device, quantize=None if scheme == "plain" else scheme)
        parts = collect(str(context.checkpoint()), options, 1735)["memory"]
        yield f"{scheme}, predicted GB", (sum(parts.values()) - parts.get("audio encoder", 0)) / 1e9


def peer(context: Context) -> Figures:
    """transformers' Qwen2 of the checkpoint's shape: prefill, and decode with a static cache, compiled on a GPU."""
    try:
        from transformers import Qwen2Config, Qwen2ForCausalLM
    except ImportError as error:
        raise Skipped(f"transformers cannot be imported ({error})") from error
    from vita.checkpoint.open import open_checkpoint

    free(context)
    d = open_checkpoint(str(context.checkpoint()), offline=True).config.decoder
    config = Qwen2Config(
        vocab_size=d.vocab_size, hidden_size=d.hidden_size, intermediate_size=d.intermediate_size,
        num_hidden_layers=d.num_layers, num_attention_heads=d.num_heads, num_key_value_heads=d.num_kv_heads,
        rms_norm_eps=d.rms_norm_eps, rope_theta=d.rope_theta, tie_word_embeddings=False, attn_implementation="sdpa",
    )  # fmt: skip
    with context.device:
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
    ids = torch.arange(1435, device=context.device)[None] % d.vocab_size
    tokens = min(PEER_TOKENS, context.args.tokens)

    def generate(count: int) -> float:
        start = time.perf_counter()
        static = {"cache_implementation": "static"} if context.device.type == "cuda" else {}  # compiles the step
        model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, **static)
        return time.perf_counter() - start

    with torch.inference_mode():
        for _ in range(3):
            start = time.perf_counter()
            float(model(ids, logits_to_keep=1).logits.sum())  # waits
            prefill = time.perf_counter() - start
        yield "prefill s", prefill
        generate(tokens)  # compiles
        first, all_ = generate(2), generate(tokens)
    yield "tokens/s", (tokens - 2) / max(1e-9, all_ - first)


def tune(context: Context) -> Figures:
    """GB/s of the largest matmuls by how the kernels are divided; the division that is used comes first."""
    context.need_cuda()
    from vita.kernels.triton import int_gemm, int_gemv
    from vita.kernels.triton.int_gemm import GEMM_SHAPES, GemmShape
    from vita.kernels.triton.int_gemv import GEMV_SHAPES, GemvShape
    from vita.kernels.triton.linear import INT4, INT8

    for kind, number in (("int4", INT4), ("int8", INT8)):
        gate_up, down = (
            made_weight(kind, *shape, context.device) for shape in ((2 * INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE))
        )
        gemv: list[Any] = [GEMV_SHAPES[number]]
        gemv += [GemvShape(*s) for s in itertools.product((2, 4, 8, 16), (32, 64), (4, 8), (1, 3))]
        gemm: list[Any] = [GEMM_SHAPES[number]]
        gemm += [GemmShape(*s) for s in itertools.product((32, 64, 128), (4, 8), (2, 4, 6))]
        for rows, shapes, linear in ((1, gemv, int_gemv.linear), (16, gemm, int_gemm.linear)):
            for shape in shapes:
                if context.left() < 10:
                    raise Skipped("the time is over")
                x = torch.randn(rows, HIDDEN, device=context.device).bfloat16()
                h = torch.randn(rows, INTERMEDIATE, device=context.device).bfloat16()
                ones = torch.ones(HIDDEN, device=context.device).bfloat16()
                runs = {
                    "gate": partial(
                        linear, x, gate_up, h.clone(), norm_weight=ones, eps=1e-6, swiglu=True, blocks=shape
                    ),
                    "down": partial(linear, h, down, x.clone(), residual=x, blocks=shape),
                }
                for name, run in runs.items():
                    weight = gate_up if name == "gate" else down
                    label = f"{name}, {kind}, {rows} rows, {shape}"
                    rate = rate_of(run, weight, label)
                    if rate is not None:
                        yield label, rate


def rate_of(run: Callable[[], object], weight: Weight, label: str) -> float | None:
    """GB/s of weights; None, with a line, where this GPU has too little shared memory for a division."""
    from triton.testing import do_bench

    read = weight.values.nbytes + (0 if weight.scale is None else weight.scale.nbytes)
    try:
        return float(read / do_bench(run, warmup=3, rep=15, return_mode="median") / 1e6)
    except Exception as error:  # Triton's failures have no common class
        print(f"{label}: {type(error).__name__}", flush=True)
        return None


STAGES = {
    "peaks": Stage(peaks, 5), "verify": Stage(verify, 10), "check": Stage(check, 20), "memory": Stage(memory, 2),
    **{scheme: Stage(partial(request, scheme), 30) for scheme in SCHEMES},
    "peer": Stage(peer, 60), "tune": Stage(tune, 20),
}  # fmt: skip
