"""The stages of a request measured one by one on any checkpoint.

Owns the workload and the figures. Random weights at the released sizes give the real speed: values do not matter.
Does not know how figures are shown or compared.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vita.bench.ceilings import best_seconds, ceilings, synchronize
from vita.checkpoint.open import DEFAULT, Checkpoint
from vita.engine.engine import Engine
from vita.engine.fusion import fuse
from vita.engine.generate import decode, prefill
from vita.engine.sampler import Sampler
from vita.model.kv_cache import KVCache
from vita.model.vita import VitaModel
from vita.options import EngineOptions
from vita.planning.flops import audio_flops, prefill_flops, vision_flops, weight_bytes
from vita.planning.memory_plan import tile_batch
from vita.prompt.template import IMAGE_PLACEHOLDER, Placeholders, Turn, render
from vita.prompt.tokenizer import Tokenizer
from vita.runtime.clock import Stopwatch
from vita.runtime.device import choose_device, choose_dtype
from vita.runtime.memory import peak_memory, reset_peak
from vita.types import SamplingParams

QUESTION = "Describe this images."
DEMO_TILES, ONE_TILE, VIDEO_FRAMES = 5, 1, 16
SPEECH_SECONDS = 10
START_TOKENS, ANSWERED = 30, "answered"
BATCHES, BATCH_STEPS = (1, 4, 8, 16), 2
PICTURE_TOKENS = 64
LIMITS = {"TFLOP/s": "gemm", "GB/s": "read"}  # the ceiling that a rate is held against, by its unit


@dataclass(frozen=True)
class Figure:
    """One measured stage.

    Attributes:
        stage: its name.
        seconds: it took.
        rate: what was reached, in `unit`.
        ceiling: the most that is possible, in the same unit; None where there is no such thing.
        what: the amount of work, for people.
        peak_gb: most memory of the process (or on the GPU) while its stage ran; None where that cannot be told.
    """

    stage: str
    seconds: float
    rate: float | None = None
    unit: str = ""
    ceiling: float | None = None
    what: str = ""
    peak_gb: float | None = None

    @property
    def share(self) -> float | None:
        """Of the ceiling, in per cent."""
        return 100 * self.rate / self.ceiling if self.rate is not None and self.ceiling else None


@dataclass
class Report:
    """All figures of one run, and where they were taken."""

    model: str
    device: str
    dtype: str
    quantize: str | None
    machine: str
    threads: int
    torch: str
    ceilings: dict[str, float]
    figures: list[Figure] = field(default_factory=list)
    peak_gb: float = 0.0

    def as_json(self) -> dict[str, object]:
        """For programs, and for `--compare`."""
        return asdict(self)


def bench(
    checkpoint: Checkpoint, options: EngineOptions, *, tokens: int, cold: bool, tell: Callable[[str], None]
) -> Report:
    """Measure every stage.

    Args:
        checkpoint: opened.
        options: how the model is loaded.
        tokens: new tokens of the demo request.
        cold: also load with the files dropped from the page cache, which takes a disk's time.
        tell: called with the name of what is measured next.

    Raises:
        VitaError: the checkpoint or the machine is not up to it.
    """
    tell("ceilings")
    meta = VitaModel.on_meta(checkpoint.config, Tokenizer.load(checkpoint.folder).size)
    where, form = _place_of(meta, options)
    top = measured_apart(where, form)
    open_engine = partial(Engine, checkpoint, options)
    loads = []
    if cold:
        tell("load, cold")
        _forget(checkpoint.folder)
        loads.append(Figure("load, cold", _timed(lambda: _touch(open_engine()))))
    tell("load")
    start = time.perf_counter()
    engine = open_engine()
    loads.append(Figure("load, warm", time.perf_counter() - start, what="names and shapes checked, decoder ready"))
    report = Report(
        checkpoint.folder.name, str(engine.device), str(engine.dtype).removeprefix("torch."), engine.quantize,
        _machine(engine.device), torch.get_num_threads(), torch.__version__,
        top, loads,
    )  # fmt: skip
    for name, measure in _stages(engine, meta, tokens):
        tell(name)
        report.peak_gb = max(report.peak_gb, peak_memory(engine.device) / 1e9)
        told = reset_peak(engine.device)
        figures = measure()
        peak = peak_memory(engine.device) / 1e9
        report.figures += [replace(f, peak_gb=peak) for f in figures] if told else figures
        report.peak_gb = max(report.peak_gb, peak)
    report.figures = [_with_pictures(f, report.figures) for f in report.figures]
    tell("ceilings again")
    # A neighbour on a shared machine can hold the ceilings down for as long as they take to measure: the higher count.
    report.ceilings = {name: max(top[name], now) for name, now in measured_apart(where, form).items()}
    report.figures = [replace(f, ceiling=report.ceilings.get(LIMITS.get(f.unit, ""))) for f in report.figures]
    tell("process start")
    report.figures.append(process_start())
    return report


def measured_apart(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """The ceilings, on a CPU in a process of its own: their gigabyte must not count as the model's."""
    if device.type != "cpu":
        top = ceilings(device, dtype)
        reset_peak(device)
        return top
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(ceilings, device, dtype).result()


def _place_of(meta: VitaModel, options: EngineOptions) -> tuple[torch.device, torch.dtype]:
    total = sum(meta.parameter_counts().values())
    where = choose_device(options.device, total)
    return where, choose_dtype(options.dtype, meta.config, total, where)[0]


def _stages(engine: Engine, meta: VitaModel, tokens: int) -> Iterator[tuple[str, Callable[[], list[Figure]]]]:
    yield "vision, 5 tiles", lambda: [_vision(engine, meta, DEMO_TILES)]
    yield "vision, 1 tile", lambda: [_vision(engine, meta, ONE_TILE)]
    yield "video, 16 frames", lambda: [_vision(engine, meta, VIDEO_FRAMES, "video, 16 frames")]
    yield "speech, 10 s", lambda: [_speech(engine, meta)]
    yield "demo request", lambda: _request(engine, meta, DEMO_TILES, tokens)
    yield "one tile", lambda: _request(engine, meta, ONE_TILE, min(tokens, 16))
    yield "batches", lambda: _batches(engine)


@torch.inference_mode()
def _vision(engine: Engine, meta: VitaModel, tiles: int, name: str = "") -> Figure:
    vision, projector = engine.model.vision, engine.model.projector
    size = engine.config.vision.image_size
    pixels = torch.randn(tiles, 3, size, size).to(engine.device)

    def run() -> list[Tensor]:
        return [projector(vision(batch)) for batch in pixels.split(tile_batch(engine.device))]

    seconds = best_seconds(run, engine.device, 2)
    rate = vision_flops(meta, tiles) / seconds / 1e12
    rows = tiles * engine.config.vision.tokens_per_tile
    stage = name or f"vision, {tiles} tile{'s' if tiles > 1 else ''}"
    return Figure(stage, seconds, rate, "TFLOP/s", what=f"{rows:,} tokens")


@torch.inference_mode()
def _speech(engine: Engine, meta: VitaModel) -> Figure:
    encoder, adapter = engine.model.audio, engine.model.adapter
    frames = SPEECH_SECONDS * 100
    bank = torch.randn(1, frames, engine.config.audio.input_dim).to(engine.device)
    lengths = torch.tensor([frames], device=engine.device)
    seconds = best_seconds(lambda: adapter(*encoder(bank, lengths)), engine.device, 2)
    rate = audio_flops(meta, frames) / seconds / 1e12
    return Figure("speech, 10 s", seconds, rate, "TFLOP/s", what=f"{SPEECH_SECONDS * 25 // 2} tokens")


def _request(engine: Engine, meta: VitaModel, tiles: int, tokens: int) -> list[Figure]:
    """Prefill and decode of a prompt with so many tiles; vision was measured already and is not repeated."""
    config, decoder, turn = engine.config, engine.decoder, contextlib.nullcontext()
    ids = render([Turn("user", (Placeholders("image", tiles), QUESTION))], engine.tokenizer)
    rows = torch.randn(config.vision.tokens_per_tile, config.decoder.hidden_size)
    images = [rows.to(engine.device, engine.dtype) * 0.02] * sum(i == IMAGE_PLACEHOLDER for i in ids)
    embeds = fuse(ids, decoder.embed.weight, images, [], engine.device)
    length = len(embeds)
    tokens = min(tokens, config.context - length)
    cache = KVCache(config.decoder, length + tokens, dtype=engine.dtype, device=engine.device)
    # Warm; a GPU's library chooses and loads kernels by the shape.
    prefill(decoder, embeds[:32] if engine.device.type == "cpu" else embeds, cache, turn, lambda: False)
    cache.reset()
    synchronize(engine.device)
    start = time.perf_counter()
    logits = prefill(decoder, embeds, cache, turn, lambda: False)
    synchronize(engine.device)
    seconds = time.perf_counter() - start
    rate = prefill_flops(meta, length) / seconds / 1e12
    label = f"{tiles} tile{'s' if tiles > 1 else ''}"
    out = [Figure(f"prefill, {label}", seconds, rate, "TFLOP/s", what=f"{length:,} positions")]
    watch = Stopwatch(engine.device)
    sampler = Sampler(SamplingParams(), 1.0, engine.device)
    step, ahead = engine.batcher.step, engine.ahead
    made = sum(1 for _ in decode(step, logits, cache, sampler, frozenset(), tokens, lambda: False, watch, ahead=ahead))
    engine.batcher.leave(cache)
    spent = watch.seconds["decode"]
    read = weight_bytes(decoder) + KVCache.bytes_per_position(config.decoder, engine.dtype) * (length + made // 2)
    speed = (made - 1) / spent
    out.append(Figure(f"decode, {label}", spent, read * speed / 1e9, "GB/s", what=f"{made} tokens, {speed:.2f}/s"))
    return out


@torch.inference_mode()
def _batches(engine: Engine) -> list[Figure]:
    """Decode steps shared by several requests, each behind a prompt of one tile."""
    length = engine.config.vision.tokens_per_tile + 64
    first = KVCache(engine.config.decoder, length + BATCH_STEPS + 2, dtype=engine.dtype, device=engine.device)
    first.keys.normal_()
    first.values.normal_()
    out: list[Figure] = []
    for rows in BATCHES:
        caches = [first.copy_prefix(length, first.capacity) for _ in range(rows)]
        tokens = torch.arange(rows, device=engine.device)

        def step(caches: list[KVCache] = caches, tokens: Tensor = tokens) -> None:
            engine.steps(tokens, caches)

        seconds = best_seconds(step, engine.device, BATCH_STEPS)
        speed = rows / seconds
        times = speed * out[0].seconds / BATCHES[0] if out else 1.0
        out.append(Figure(f"batch {rows}", seconds, speed, "tokens/s", what=f"one step, {times:.1f}x of one request"))
    return out


def _with_pictures(batch: Figure, figures: list[Figure]) -> Figure:
    """A batch's figure with the pictures a second that follow: each is seen and prefilled alone, then all decode."""
    if not batch.stage.startswith("batch "):
        return batch
    alone = sum(f.seconds for f in figures if f.stage in ("vision, 1 tile", "prefill, 1 tile"))
    rows = int(batch.stage.removeprefix("batch "))
    speed = rows / (rows * alone + PICTURE_TOKENS * batch.seconds)
    return replace(batch, what=f"{batch.what}, {speed:.3g} pictures/s (1 tile, {PICTURE_TOKENS} tokens)")


def process_start() -> Figure:
    """From the start of a process to the last token of a 30-token answer of the embedded model about a picture."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        Image.new("RGB", (224, 224), (16, 30, 84)).save(picture)
        code = (
            "import sys, vita; m = vita.load(sys.argv[1]); m.engine.stop_ids = frozenset();"
            f"m.ask({QUESTION!r}, images=[sys.argv[2]], params=vita.SamplingParams(max_tokens={START_TOKENS}));"
            f"print({ANSWERED!r}, flush=True)"
        )
        command, start = [sys.executable, "-c", code, str(DEFAULT), str(picture)], time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            # The answer is there then; what Python does before it ends is not waited for.
            any(line.strip() == ANSWERED.encode() for line in process.stdout)
            seconds = time.perf_counter() - start
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return Figure("process start", seconds, what=f"embedded model, to the last of {START_TOKENS} tokens")


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _touch(engine: Engine) -> None:
    """Read every weight once, so that a mapped file has really been loaded."""
    for tensor in engine.decoder.state_dict().values():
        tensor.reshape(-1)[:: 4096 // tensor.element_size()].sum()
    synchronize(engine.device)


def _forget(folder: Path) -> None:
    """Ask the system to drop a checkpoint's files from the page cache."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in folder.rglob("*.safetensors"):
        handle = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
