"""Measures which width, batch and mode suit a device: `python -m recipes.nano.trial` in a process of its own.

Owns the measurement and the choice. Batches are random numbers of the right shapes. A compiler that hangs or fails
costs the trial its time and the run nothing: what was measured until then counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from recipes.nano.everything import BANDS, Shape, phases
from recipes.nano.feed import SHAPE
from recipes.nano.losses import ON_HOST, Batch, losses
from recipes.nano.model import Learner, sizes
from recipes.nano.tiles import SIDE
from vita.media.filterbank import token_count
from vita.train.optimizer import autocast, make_adamw, update

STEPS = 4  # timed, after two that warm up
FASTER = 1.1  # what a larger batch or a compiler must bring
REPEATS = 4  # at most
REPEATED_BLOCK = 32  # batches


@dataclass(frozen=True)
class Plan:
    """What a run is made with; kept beside its state.

    Attributes:
        preset: of `recipes.nano.model.sizes`.
        shape: of a batch.
        mode: "eager" or "compile".
        repeats: how often each drawn batch is trained.
        block: batches that are drawn before they are repeated.
    """

    preset: str
    shape: Shape
    mode: str = "eager"
    repeats: int = 1
    block: int = 8

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Plan:
        """What `save` wrote."""
        read = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**read, "shape": Shape(**read["shape"])})


@dataclass(frozen=True)
class Speed:
    """Tiles a second of one candidate."""

    preset: str
    factor: float
    mode: str
    tiles: float


def choose(speeds: Sequence[Speed], drawn: float, base: Plan) -> Plan:
    """The plan that follows from what was measured.

    Args:
        speeds: in the order of preference of their presets.
        drawn: tiles a second that the drawing processes make; 0 if unknown.
        base: its shape is that of factor 1.
    """
    if not speeds:
        return base
    best = {p: max((s for s in speeds if s.preset == p), key=lambda s: s.tiles) for p in {s.preset for s in speeds}}
    order = list(dict.fromkeys(s.preset for s in speeds))
    # A wide model pays if the device still trains what is drawn; else a narrower one sees more.
    preset = next((p for p in order if best[p].tiles >= drawn), max(order, key=lambda p: best[p].tiles))
    mine = [s for s in speeds if s.preset == preset]
    eager = max((s.tiles for s in mine if s.mode == "eager"), default=0.0)
    mode = "compile" if any(s.mode == "compile" and s.tiles > FASTER * eager for s in mine) else "eager"
    mine = sorted((s for s in mine if s.mode == mode), key=lambda s: s.factor)
    chosen = mine[0]
    for speed in mine[1:]:
        chosen = speed if speed.tiles > FASTER * chosen.tiles else chosen
    repeats = min(REPEATS, max(1, round(chosen.tiles / drawn))) if drawn else base.repeats
    block = base.block if repeats == 1 else max(base.block, REPEATED_BLOCK)  # so that what is repeated is not fresh
    shape = base.shape.times(chosen.factor)
    return replace(base, preset=preset, shape=shape, mode=mode, repeats=repeats, block=block)


def random_batch(shape: Shape, vocabulary: int, device: torch.device, words: int) -> Batch:
    """A batch of everything whose contents mean nothing."""
    dice = np.random.default_rng(0)
    size = (shape.sequences, shape.length)
    media = shape.tiles * 64 + shape.sounds * token_count(shape.frames)
    segment = np.minimum(np.arange(shape.length) // 200, 4)[None].repeat(shape.sequences, 0)
    arrays = {
        "tiles": dice.integers(0, 255, (shape.tiles, SIDE, SIDE, 3), np.uint8),
        "labelled": np.arange(shape.tiles // 2), "labels": np.zeros((shape.tiles // 2, *SHAPE), np.uint8),
        "samples": np.array([shape.tiles, shape.sounds]),
        "ids": dice.integers(0, vocabulary, size, np.int32), "target": dice.integers(0, vocabulary, size, np.int32),
        "position": np.arange(shape.length, dtype=np.int32)[None].repeat(shape.sequences, 0),
        "segment": segment.astype(np.int32), "row": np.zeros(size, np.int32), "weight": np.ones(size, np.float32),
        "source": dice.integers(-media, media, size),
    }  # fmt: skip
    if shape.sounds:
        counts = np.full(shape.sounds, 8)
        arrays |= {
            "banks": dice.standard_normal((shape.sounds, shape.frames, BANDS)).astype(np.float16),
            "frames": np.full(shape.sounds, shape.frames), "letters": dice.integers(1, 26, counts.sum()),
            "spelled": counts, "words": dice.integers(1, words, counts.sum()), "worded": counts,
            "tokens": dice.integers(0, vocabulary, counts.sum()),
        }  # fmt: skip
    tensors = {k: torch.from_numpy(v) if k in ON_HOST else torch.from_numpy(v).to(device) for k, v in arrays.items()}
    return Batch(0, 0, tensors)


def prepare(model: Learner, mode: str) -> None:
    """Attention for training, and compiled layers if wanted: each kind of layer is compiled once."""
    model.use_fast_attention()
    if model.decoder.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cuda.enable_cudnn_sdp(False)  # as in the engine: it takes 40 ms to plan for a shape
    if mode == "compile":
        for layer in (*model.vision.layers, *model.decoder.layers, *model.audio.layers):
            layer.compile(dynamic=False)


def measure(preset: str, shape: Shape, mode: str, vocabulary: int, device: torch.device) -> float:
    """Tiles a second of training steps."""
    model = Learner(sizes(preset, vocabulary)).to(device)
    prepare(model, mode)
    optimizer, phase = make_adamw(model), phases()[-1]
    batch = random_batch(shape, vocabulary, device, model.words.out_features)
    for step in range(2 + STEPS):
        if step == 2:
            _wait(device)
            began = time.perf_counter()
        with autocast(device):
            loss, _ = losses(model, batch, phase, device)
        update(model.parameters(), optimizer, loss, 1e-4)
    _wait(device)
    return STEPS * shape.tiles / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_trial(base: Plan, presets: Sequence[str], modes: Sequence[str], vocabulary: int, device: str,
              seconds: float, factors: Sequence[float]) -> list[Speed]:  # fmt: skip
    """What a process of its own measures within so many seconds; it is ended then."""
    wanted = {"shape": asdict(base.shape), "presets": list(presets), "modes": list(modes), "vocabulary": vocabulary,
              "device": device, "factors": list(factors)}  # fmt: skip
    command = [sys.executable, "-m", "recipes.nano.trial", json.dumps(wanted)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
    lines = [line for line in said.splitlines() if line.startswith("{") and line.endswith("}")]
    return [Speed(**json.loads(line)) for line in lines]


def _candidates(wanted: Mapping[str, list[str]], factors: Sequence[float]) -> list[tuple[str, float, str]]:
    # Widest first and then compiled, so that an early end loses the least.
    eager = [(p, f, "eager") for p in wanted["presets"] for f in factors]
    return [*eager[:1], *((wanted["presets"][0], factors[0], m) for m in wanted["modes"] if m != "eager"), *eager[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wanted", help="what to measure, as JSON")
    wanted = json.loads(parser.parse_args().wanted)
    shape, device = Shape(**wanted["shape"]), torch.device(wanted["device"])
    for preset, factor, mode in _candidates(wanted, wanted["factors"]):
        try:
            tiles = measure(preset, shape.times(factor), mode, wanted["vocabulary"], device)
        except (RuntimeError, torch.OutOfMemoryError) as error:  # too large a batch, or a compiler that gives up
            print(f"trial: {preset} x {factor} {mode} failed: {str(error).splitlines()[0][:200]}", file=sys.stderr)
            continue
        print(json.dumps(asdict(Speed(preset, factor, mode, tiles))), flush=True)


if __name__ == "__main__":
    main()
