"""Verify a set's optional tables: prompts, tokenizer, grids, video frames, images, audio."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vita.config import Tiling
from vita.engine.loaded import LoadedModel
from vita.media.audio import load_audio
from vita.media.filterbank import filterbank
from vita.media.image import choose_grid, cut_tiles, load_image
from vita.media.normalise import to_pixels
from vita.media.video import pick_frames
from vita.prompt.template import SYSTEM, ids_of_reference_prompt
from vita.types import Audio, MediaOptions
from vita.verify.rows import Row, compare_bytes, compare_filterbank, count_unequal

REFERENCE = MediaOptions(reference=True)


def verify_tables(folder: Path, model: LoadedModel) -> Iterator[Row]:
    """Yield rows for every table of a set; a table that is absent gives a skipped row."""
    for file, check in (
        ("prompts.json", _prompts),
        ("system_prompts.json", _system_texts),
        ("grids.json", _grids),
        ("video_frames.json", _frames),
        ("images/images.json", _images),
        ("audio/audio.json", _audio),
    ):
        path = folder / file
        if path.is_file():
            yield from check(json.loads(path.read_text(encoding="utf-8")), path, model)
        else:
            yield Row("table", file, None, 0.0, "absent")


def _prompts(data: dict[str, Any], path: Path, model: LoadedModel) -> Iterator[Row]:
    yield from _system_texts(data, path, model)
    for kind in ("single_turn", "multi_turn"):
        entries = [e for e in data[kind] if "input_ids" in e]
        ours = [ids_of_reference_prompt(e["prompt"], model.tokenizer, audio=-500 in e["input_ids"]) for e in entries]
        yield count_unequal("prompt ids", kind, ours, [e["input_ids"] for e in entries])
    samples = data["tokenizer_samples"]
    tokenizer = model.tokenizer
    yield count_unequal(
        "tokenizer", "ids", [tokenizer.encode_with_specials(s["text"]) for s in samples], [s["ids"] for s in samples]
    )
    yield count_unequal(
        "tokenizer", "decoded", [tokenizer.decode(s["ids"]) for s in samples], [s["decode"] for s in samples]
    )


def _system_texts(data: dict[str, Any], path: Path, model: LoadedModel) -> Iterator[Row]:
    theirs = data["system_prompts"]
    ours = {str(kind): text for kind, text in SYSTEM.items()}
    yield count_unequal("system texts", path.name, [ours.get(k) for k in theirs], list(theirs.values()))


def _grids(data: dict[str, Any], path: Path, model: LoadedModel) -> Iterator[Row]:
    params = data["params"]
    for side in ("448", "224"):
        tiling = Tiling(int(side), params["min_num"], params["max_num"], params["use_thumbnail"])
        sizes = [s for s in data["sizes"] if side in s]
        ours = [list(choose_grid(s["w"], s["h"], tiling)) for s in sizes]
        yield count_unequal("grids", side, ours, [[s[side]["cols"], s[side]["rows"]] for s in sizes])


def _frames(data: dict[str, Any], path: Path, model: LoadedModel) -> Iterator[Row]:
    clips = [c for c in data["clips"] if "taken" in c]
    ours = [
        pick_frames(c["fps"], c["n_frames"], max_frames=data["max_frames"], min_frames=data["min_frames"])
        for c in clips
    ]
    yield count_unequal("video frames", "picks", ours, [c["taken"] for c in clips])


def _images(data: dict[str, Any], path: Path, model: LoadedModel) -> Iterator[Row]:
    for name, entry in data["images"].items():
        file = path.parent / f"{name}.png"
        if file.is_file() and "tiles" in entry:
            side = entry["shape"][-1]
            tiles = cut_tiles(load_image(file, REFERENCE), Tiling(tile=side))
            pixels = to_pixels(tiles, model.config.image)
            yield compare_bytes("pixels", name, pixels, entry["sha256_float32"])


def _audio(data: dict[str, Any], path: Path, model: LoadedModel) -> Iterator[Row]:
    bank = model.config.filterbank
    for file in sorted(path.parent.glob("*_fbank.npy")):
        name = file.name.removesuffix("_fbank.npy")
        wave = load_audio(Audio(path.parent / f"{name}.wav"), REFERENCE, bank.sample_rate)
        ours = filterbank(torch.from_numpy(wave.samples), bank)
        yield compare_filterbank(name, ours, torch.from_numpy(np.load(file, allow_pickle=False)))
