"""Measure the stages of a request one by one, on any checkpoint.

Random weights of the released sizes give the released model's speed, since speed does not depend on the values.
"""

from __future__ import annotations

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

from vita.bench.decode import decode, prefill
from vita.bench.peaks import best_seconds, measure_peaks, synchronize
from vita.checkpoint.files import DEFAULT
from vita.checkpoint.open import Checkpoint
from vita.engine.decode import DecodeRunner, choose_decode_runner, step_bytes
from vita.engine.fusion import fuse
from vita.engine.loaded import LoadedModel
from vita.model.kv_cache import KVCache
from vita.model.vita import VitaModel
from vita.options import EngineOptions
from vita.planning.flops import audio_flops, prefill_flops, vision_flops
from vita.planning.memory_plan import tile_batch
from vita.prompt.template import Media, Turn, render
from vita.prompt.tokenizer import Tokenizer
from vita.runtime.device import choose_device, choose_dtype
from vita.runtime.memory import peak_memory, reset_peak
from vita.types import MediaSpan

QUESTION = "Describe this images."
DEMO_TILES, ONE_TILE, VIDEO_FRAMES = 5, 1, 16
SPEECH_SECONDS = 10
START_TOKENS, ANSWERED = 30, "answered"
BATCHES, BATCH_STEPS = (1, 4, 8, 16), 2
IMAGE_TOKENS = 64
PEAKS = {"TFLOP/s": "gemm", "GB/s": "read"}  # the peak rate that a figure is compared with, by its unit


@dataclass(frozen=True)
class Figure:
    """One measured stage.

    Attributes:
        stage: its name.
        seconds: its duration.
        rate: the rate reached, in `unit`.
        unit: of the rate.
        peak_rate: the machine's peak rate, in `unit`; None if there is none for this unit.
        what: the amount of work, as text.
        peak_gb: peak memory of the process (or on the GPU) during the stage, in GB; None where it cannot be measured.
    """

    stage: str
    seconds: float
    rate: float | None = None
    unit: str = ""
    peak_rate: float | None = None
    what: str = ""
    peak_gb: float | None = None

    @property
    def share(self) -> float | None:
        """The rate in per cent of the peak rate."""
        return 100 * self.rate / self.peak_rate if self.rate is not None and self.peak_rate else None


@dataclass
class Report:
    """All figures of one run, and the machine they were measured on."""

    model: str
    device: str
    dtype: str
    quantize: str | None
    machine: str
    threads: int
    torch: str
    peaks: dict[str, float]
    figures: list[Figure] = field(default_factory=list)
    peak_gb: float = 0.0

    def as_json(self) -> dict[str, object]:
        """As a dictionary for JSON; `--compare` reads it."""
        return asdict(self)


def bench(
    checkpoint: Checkpoint, options: EngineOptions, *, tokens: int, cold: bool, tell: Callable[[str], None]
) -> Report:
    """Measure every stage.

    Args:
        checkpoint: opened.
        options: how the model is loaded.
        tokens: new tokens of the demo request.
        cold: also measure loading with the files dropped from the page cache.
        tell: called with the name of each measurement before it starts.

    Raises:
        VitaError: the checkpoint cannot be loaded on this machine.
    """
    tell("peak rates")
    meta = VitaModel.on_meta(checkpoint.config, Tokenizer.load(checkpoint.folder).size)
    chosen_device, chosen_dtype = _device_and_dtype(meta, options)
    peaks = separate_peaks(chosen_device, chosen_dtype)
    open_model = partial(LoadedModel, checkpoint, options)
    loads = []
    if cold:
        tell("load, cold")
        _drop_page_cache(checkpoint.folder)
        loads.append(Figure("load, cold", _timed(lambda: _read_weights(open_model()))))
    tell("load")
    start = time.perf_counter()
    model = open_model()
    loads.append(Figure("load, warm", time.perf_counter() - start, what="names and shapes checked, decoder ready"))
    report = Report(
        checkpoint.folder.name, str(model.device), str(model.dtype).removeprefix("torch."), model.quantize,
        _machine(model.device), torch.get_num_threads(), torch.__version__,
        peaks, loads,
    )  # fmt: skip
    for name, measure in _stages(model, meta, tokens):
        tell(name)
        report.peak_gb = max(report.peak_gb, peak_memory(model.device) / 1e9)
        per_stage = reset_peak(model.device)
        figures = measure()
        peak = peak_memory(model.device) / 1e9
        report.figures += [replace(f, peak_gb=peak) for f in figures] if per_stage else figures
        report.peak_gb = max(report.peak_gb, peak)
    report.figures = [_with_image_rate(f, report.figures) for f in report.figures]
    tell("peak rates again")
    # Other load on a shared machine may lower one measurement of the peaks, so the higher of two is taken.
    report.peaks = {name: max(peaks[name], now) for name, now in separate_peaks(chosen_device, chosen_dtype).items()}
    report.figures = [replace(f, peak_rate=report.peaks.get(PEAKS.get(f.unit, ""))) for f in report.figures]
    tell("process start")
    report.figures.append(process_start())
    return report


def separate_peaks(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """`measure_peaks`, on a CPU in another process, so that its gigabyte does not count as the model's memory."""
    if device.type != "cpu":
        peaks = measure_peaks(device, dtype)
        reset_peak(device)
        return peaks
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_peaks, device, dtype).result()


def _device_and_dtype(meta: VitaModel, options: EngineOptions) -> tuple[torch.device, torch.dtype]:
    total = sum(meta.parameter_counts().values())
    chosen = choose_device(options.device, total)
    return chosen, choose_dtype(options.dtype, meta.config, total, chosen)[0]


def _stages(model: LoadedModel, meta: VitaModel, tokens: int) -> Iterator[tuple[str, Callable[[], list[Figure]]]]:
    runner = choose_decode_runner(model.decoder, quantized_kv_cache=model.quantized_kv_cache)
    yield "vision, 5 tiles", lambda: [_vision(model, meta, DEMO_TILES)]
    yield "vision, 1 tile", lambda: [_vision(model, meta, ONE_TILE)]
    yield "video, 16 frames", lambda: [_vision(model, meta, VIDEO_FRAMES, "video, 16 frames")]
    yield "speech, 10 s", lambda: [_speech(model, meta)]
    yield "demo request", lambda: _request(model, meta, runner, DEMO_TILES, tokens)
    yield "one tile", lambda: _request(model, meta, runner, ONE_TILE, min(tokens, 16))
    yield "batches", lambda: _batches(model, runner)


@torch.inference_mode()
def _vision(model: LoadedModel, meta: VitaModel, tiles: int, name: str = "") -> Figure:
    vision, projector = model.vision, model.projector
    size = model.config.vision.image_size
    pixels = torch.randn(tiles, 3, size, size).to(model.device)

    def run() -> list[Tensor]:
        return [projector(vision(batch)) for batch in pixels.split(tile_batch(model.device))]

    seconds = best_seconds(run, model.device, 2)
    rate = vision_flops(meta, tiles) / seconds / 1e12
    rows = tiles * model.config.vision.tokens_per_tile
    stage = name or f"vision, {tiles} tile{'s' if tiles > 1 else ''}"
    return Figure(stage, seconds, rate, "TFLOP/s", what=f"{rows:,} tokens")


@torch.inference_mode()
def _speech(model: LoadedModel, meta: VitaModel) -> Figure:
    encoder, adapter = model.audio, model.adapter
    frames = SPEECH_SECONDS * 100
    bank = torch.randn(1, frames, model.config.audio.input_dim).to(model.device)
    lengths = torch.tensor([frames], device=model.device)
    seconds = best_seconds(lambda: adapter(*encoder(bank, lengths)), model.device, 2)
    rate = audio_flops(meta, frames) / seconds / 1e12
    return Figure("speech, 10 s", seconds, rate, "TFLOP/s", what=f"{SPEECH_SECONDS * 25 // 2} tokens")


def _request(model: LoadedModel, meta: VitaModel, runner: DecodeRunner, tiles: int, tokens: int) -> list[Figure]:
    """Prefill and decode of a prompt with one image of so many tiles; its features are random, without the encoder."""
    config, decoder = model.config, model.decoder
    tile = MediaSpan("image", b"", config.vision.tokens_per_tile)
    spans = render([Turn("user", (Media("image", (tile,) * tiles), QUESTION))], model.tokenizer)
    features = torch.randn(tile.rows, config.decoder.hidden_size).to(model.device, model.dtype) * 0.02
    with torch.inference_mode():
        embeds = fuse(spans, decoder.embed_tokens, {tile.digest: features})
    length = len(embeds)
    tokens = min(tokens, config.context - length)
    cache = KVCache(config.decoder, length + tokens, dtype=model.dtype, device=model.device)
    # Warm up; on a GPU with the full shape, since libraries choose and load their kernels by shape.
    prefill(decoder, embeds[:32] if model.device.type == "cpu" else embeds, cache)
    cache.reset()
    synchronize(model.device)
    start = time.perf_counter()
    logits = prefill(decoder, embeds, cache)
    synchronize(model.device)
    seconds = time.perf_counter() - start
    rate = prefill_flops(meta, length) / seconds / 1e12
    label = f"{tiles} tile{'s' if tiles > 1 else ''}"
    out = [Figure(f"prefill, {label}", seconds, rate, "TFLOP/s", what=f"{length:,} positions")]
    start = time.perf_counter()
    made = decode(runner, logits, cache, tokens)
    synchronize(model.device)
    spent = time.perf_counter() - start
    read = step_bytes(runner, decoder) + KVCache.bytes_per_position(config.decoder, model.dtype) * (length + made // 2)
    speed = (made - 1) / spent
    out.append(Figure(f"decode, {label}", spent, read * speed / 1e9, "GB/s", what=f"{made} tokens, {speed:.2f}/s"))
    return out


@torch.inference_mode()
def _batches(model: LoadedModel, runner: DecodeRunner) -> list[Figure]:
    """One decode step of several requests, each after a prompt of one tile."""
    length = model.config.vision.tokens_per_tile + 64
    first = KVCache(model.config.decoder, length + BATCH_STEPS + 2, dtype=model.dtype, device=model.device)
    first.keys.normal_()
    first.values.normal_()
    out: list[Figure] = []
    for rows in BATCHES:
        caches = [first.copy_prefix(length, first.capacity) for _ in range(rows)]
        tokens = torch.arange(rows, device=model.device)

        def step(caches: list[KVCache] = caches, tokens: Tensor = tokens) -> None:
            runner(tokens, caches)

        seconds = best_seconds(step, model.device, BATCH_STEPS)
        speed = rows / seconds
        times = speed * out[0].seconds / BATCHES[0] if out else 1.0
        out.append(Figure(f"batch {rows}", seconds, speed, "tokens/s", what=f"one step, {times:.1f}x of one request"))
    return out


def _with_image_rate(batch: Figure, figures: list[Figure]) -> Figure:
    """Add images/s to the figure of a batch, for requests encoded and prefilled one by one, then decoded together."""
    if not batch.stage.startswith("batch "):
        return batch
    per_request = sum(f.seconds for f in figures if f.stage in ("vision, 1 tile", "prefill, 1 tile"))
    rows = int(batch.stage.removeprefix("batch "))
    speed = rows / (rows * per_request + IMAGE_TOKENS * batch.seconds)
    return replace(batch, what=f"{batch.what}, {speed:.3g} images/s (1 tile, {IMAGE_TOKENS} tokens)")


def process_start() -> Figure:
    """Time from starting a process to the last token of a 30-token answer about an image, with the embedded model."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.png"
        Image.new("RGB", (224, 224), (16, 30, 84)).save(image)
        code = (
            "import sys, vita; m = vita.load(sys.argv[1]);"
            f"m.ask({QUESTION!r}, images=[sys.argv[2]], "
            f"params=vita.SamplingParams(max_tokens={START_TOKENS}, ignore_eos=True));"
            f"print({ANSWERED!r}, flush=True)"
        )
        command, start = [sys.executable, "-c", code, str(DEFAULT), str(image)], time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            # Stop the clock at the answer, before the interpreter's shutdown.
            any(line.strip() == ANSWERED.encode() for line in process.stdout)
            seconds = time.perf_counter() - start
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return Figure("process start", seconds, what=f"embedded model, to the last of {START_TOKENS} tokens")


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _read_weights(model: LoadedModel) -> None:
    """Read one element of every page of the weights, so that memory-mapped files are loaded."""
    for tensor in model.decoder.state_dict().values():
        tensor.reshape(-1)[:: 4096 // tensor.element_size()].sum()
    synchronize(model.device)


def _drop_page_cache(folder: Path) -> None:
    """Ask the system to drop a checkpoint's files from the page cache; does nothing where it cannot be asked."""
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
