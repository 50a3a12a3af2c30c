"""The one command: batches of everything, a run that stops in time, survives a kill and goes on with the same data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes.nano import train
from recipes.nano.everything import Builder, MakeBuilder, Shape, held_out, phases
from recipes.nano.export import load_run
from recipes.nano.losses import ON_HOST, Batch, losses, tensor_of
from recipes.nano.model import PARTS, Learner, sizes
from recipes.nano.speech.adpcm import decode, encode
from recipes.nano.speech.baked import Shelf, append
from recipes.nano.speech.resample import by_transform
from recipes.nano.speech.voices_here import engine_here
from recipes.nano.tokenizer import build_tokenizer
from recipes.nano.train import Options, Run
from recipes.nano.trial import Plan, Speed, choose, random_batch
from recipes.nano.watchdog import LONGEST_START, Watchdog

from vita.prompt.tokenizer import Tokenizer
from vita.train.checkpoint import MANIFEST, read_shards

ROOT = Path(__file__).parents[2]
SILENT = Shape(tiles=3, sequences=1, length=1024, sounds=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder)
    return folder


def options(out: Path, **changed: object) -> Options:
    out.mkdir(parents=True, exist_ok=True)
    usual = Options(out, minutes=60, workers=1, trial=0, rate=4e-3, warm_up=15, tiny=True, evaluation=0, repeats=1)
    return replace(usual, **changed)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_few_steps_are_saved_in_small_files_and_go_on_with_the_same_data(tmp_path: Path) -> None:
    """Without sounds, which no synthesiser speaks twice to the bit."""
    whole = Run(options(tmp_path / "whole", steps=2), time.monotonic(), SILENT)
    whole.train()
    Run(options(tmp_path / "parts", steps=1), time.monotonic(), SILENT).train()
    (tmp_path / "parts" / "state" / f"{MANIFEST}.tmp").write_text("{", encoding="utf-8")  # killed while saving
    rest = Run(options(tmp_path / "parts", steps=2, resume=True), time.monotonic(), Shape())
    assert (rest.progress.step, rest.progress.index, rest.plan) == (1, 1, whole.plan)
    rest.train()
    for name, value in read_shards(tmp_path / "whole")["model"].items():
        torch.testing.assert_close(read_shards(tmp_path / "parts")["model"][name], value, atol=1e-6, rtol=1e-5)
    assert all(f.stat().st_size < 16e6 for f in (tmp_path / "parts").rglob("*"))
    model, _ = load_run(tmp_path / "parts")
    assert torch.equal(model.decoder.norm.weight, rest.model.decoder.norm.weight), "the export reads it"


def test_a_batch_holds_every_kind_in_one_shape(tokenizer: Path) -> None:
    shape = Shape(tiles=24, sequences=8, sounds=6 if engine_here() else 0)
    builder = MakeBuilder(tokenizer, shape, phases(), 1)()
    last = len(phases()) - 1
    batch, again = builder(3, last), builder(3, last)
    assert all(np.array_equal(batch[k], again[k]) for k in batch if k not in ("banks", "frames", "source")), "by number"
    assert batch["tiles"].shape == (24, 224, 224, 3) and batch["ids"].shape == (8, 1024)
    used = batch["source"][batch["source"] >= 0]
    tiles = int((batch["tiles"].reshape(24, -1).max(1) > 0).sum())
    assert set(used[used < 24 * 64] // 64) == set(range(tiles)), "every tile is shown to the decoder"
    assert (batch["target"] >= 0).sum() > 100 and (batch["weight"] > 0).sum() == (batch["target"] >= 0).sum()
    assert sum(a.nbytes for a in batch.values()) < shape.bytes
    reading = builder(3, 0)
    assert "ids" not in reading and len(reading["labels"]) == 24, "pages teach the eyes alone"
    assert not np.array_equal(held_out(builder, last)["ids"], builder(0, last)["ids"]) or builder.split == "heldout"


def test_packed_rows_have_the_losses_of_rows_alone(tokenizer: Path) -> None:
    """Two batches of one sequence each against both in one: what stands beside a row changes nothing."""
    shape = Shape(tiles=6, sequences=2, length=1024, sounds=0)
    torch.manual_seed(0)
    model = Learner(sizes("tiny", Tokenizer.load(tokenizer).size))
    arrays = MakeBuilder(tokenizer, shape, phases(tiny=True), 1)()(0, 0)
    tensors = {k: tensor_of(v) for k, v in arrays.items()}

    def answer(lines: slice) -> tuple[float, float]:
        part = {k: v[lines] if k in ("ids", "source", "weight", "segment", "position", "target", "row") else v
                for k, v in tensors.items()}  # fmt: skip
        with torch.no_grad():
            measured = losses(model, Batch(0, 0, part), phases(tiny=True)[0], torch.device("cpu"))[1]
        return float(measured["answer"]), float(part["weight"].sum())

    (both, _), (one, a), (two, b) = answer(slice(0, 2)), answer(slice(0, 1)), answer(slice(1, 2))
    assert a and b and both == pytest.approx((one * a + two * b) / (a + b), rel=1e-4)


def test_the_choice_follows_the_measurement() -> None:
    base = Plan("nano12", Shape())
    speeds = [Speed("nano12", 1, "eager", 1000), Speed("nano12", 2, "eager", 1050), Speed("nano12", 1, "compile", 2000),
              Speed("nano10", 1, "eager", 3000), Speed("nano10", 2, "eager", 5000)]  # fmt: skip
    assert choose(speeds, 900, base) == replace(base, mode="compile", repeats=2, block=32)
    wide = choose(speeds, 4000, base)
    assert (wide.preset, wide.mode, wide.shape.tiles, wide.repeats) == ("nano10", "eager", 256, 1)
    assert choose([], 900, base) == base and choose(speeds[:1], 0, base) == base
    slow = choose(speeds[:2], 9000, base)
    assert (slow.preset, slow.shape, slow.repeats) == ("nano12", base.shape, 1)


def test_random_batches_have_the_form_of_drawn_ones(tokenizer: Path) -> None:
    shape = Shape(tiles=8, sequences=2, length=1024, sounds=2)
    model = Learner(sizes("tiny-hearing", Tokenizer.load(tokenizer).size))
    batch = random_batch(shape, Tokenizer.load(tokenizer).size, torch.device("cpu"), model.words.out_features)
    loss, measured = losses(model, batch, phases()[-1], torch.device("cpu"))
    assert loss.isfinite() and {"letters", "words", "dense", "answer"} <= measured.keys()
    host = {k for k, v in batch.tensors.items() if k in ON_HOST}
    assert host == set(ON_HOST)


def test_the_wide_preset_stays_under_25_megabytes() -> None:
    model = Learner(sizes("nano12", 1420))
    count = sum(p.numel() for part in PARTS for p in getattr(model, part).parameters())
    assert count > 11.5e6 and 2 * count < 25e6


def test_a_watchdog_ends_a_process_that_hangs() -> None:
    code = """
import time
from recipes.nano.watchdog import Watchdog, process_age
print(process_age(), flush=True)
with Watchdog(0.5, time.monotonic()):
    time.sleep(60)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL and "the time is up" in done.stderr and time.monotonic() - began < 50
    with Watchdog(60, time.monotonic()):
        pass
    assert 0 < float(done.stdout) < LONGEST_START, "of a process that has just begun: this one may be older"


def test_voices_at_four_bits_keep_what_is_said(tmp_path: Path) -> None:
    time_ = np.arange(20_000) / 16_000
    voice = (0.4 * np.sin(2 * np.pi * 220 * time_) * (1 + np.sin(2 * np.pi * 3 * time_))).astype(np.float32)
    data = encode(voice)
    assert len(data) < 0.53 * len(voice)
    error = decode(data, len(voice)) - voice
    assert 10 * np.log10((voice**2).mean() / (error**2).mean()) > 25
    assert np.abs(decode(encode(np.zeros(300, np.float32)), 300)).max() < 1e-3
    for name, samples in (("a", voice), ("b", voice[:5000] * 0.5)):
        (tmp_path / f"{name}.ima").write_bytes(encode(samples) + encode(samples[:700]))
        lines = [f"{len(samples)}\twho\tquestion\tWhat is {name}?\n", "700\twho\trepeat\tNever mind.\n"]
        (tmp_path / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    from random import Random

    found = Shelf(tmp_path).saying("what is b", Random(0))
    assert found is not None and np.abs(found.samples() - 0.5 * voice[:5000]).max() < 0.1
    other = Shelf(tmp_path).of_kind("repeat", Random(0))
    assert other is not None and len(other.samples()) == 700
    append(tmp_path / "c.tsv", [(voice, "who", "others", "Hm")])
    assert len(Shelf(tmp_path).of_kind("others", Random(0)).samples()) == len(voice)  # type: ignore[union-attr]


def test_resampling_without_soxr_keeps_the_pitch() -> None:
    tone = np.sin(2 * np.pi * 300 * np.arange(8000) / 8000).astype(np.float32)
    made = by_transform(tone, 8000, 16000)
    wanted = np.sin(2 * np.pi * 300 * np.arange(16000) / 16000)
    assert len(made) == 16000 and np.abs(made - wanted)[200:-200].max() < 0.01


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "recipes.nano.train", "--device", "cpu", "--tiny", "--out", str(out),
            "--workers", "1", "--trial", "0", "--rate", "4e-3", "--warm-up", "15", *more]  # fmt: skip


@pytest.mark.slow
def test_it_learns(tmp_path: Path) -> None:
    run = Run(options(tmp_path, steps=150), time.monotonic(), replace(train.ON_CPU, sounds=0))
    before = run.evaluate(0)
    run.train()
    held_out_now = run.evaluate(1.0)
    assert held_out_now["token"] > 0.5, held_out_now
    assert held_out_now["answer"] < 0.4 * float(before["answer"]), held_out_now


@pytest.mark.slow
def test_two_minutes_end_in_two_minutes_with_a_state_and_a_table(tmp_path: Path) -> None:
    began = time.monotonic()
    more = ("--minutes", "2", "--evaluation", "25")
    done = subprocess.run(command(tmp_path, *more), capture_output=True, text=True, check=False, cwd=ROOT, timeout=150)
    assert time.monotonic() - began < 121
    assert done.returncode in (0, -signal.SIGKILL), done.stderr  # the watchdog, on a machine that is too slow
    assert read_shards(tmp_path)["progress"]["step"] > 0
    if done.returncode == 0:
        assert json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))["parts"]["mix"]["samples"][0] > 0


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    code = "from recipes.nano import train; train.SAVE_SECONDS = 3.0; train.main()"
    process = subprocess.Popen([sys.executable, "-c", code, *command(tmp_path, "--minutes", "10")[3:]], cwd=ROOT)
    manifest = tmp_path / "state" / MANIFEST
    for _ in range(1200):
        if manifest.exists():
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    step = read_shards(tmp_path)["progress"]["step"]
    assert step > 0
    more = ("--minutes", "10", "--steps", str(step + 2), "--evaluation", "0", "--resume")
    done = subprocess.run(command(tmp_path, *more), capture_output=True, text=True, check=False, cwd=ROOT, timeout=170)
    assert done.returncode == 0 and f"goes on from step {step}" in done.stdout, done.stderr
    assert read_shards(tmp_path)["progress"]["step"] == step + 2


def test_a_builder_gives_up_on_what_does_not_go_in(tokenizer: Path) -> None:
    tight = Builder(Tokenizer.load(tokenizer), Shape(tiles=1, sequences=1, length=64, sounds=0), phases(), 1)
    batch = tight(0, len(phases()) - 1)
    assert batch["samples"][0] <= 1
