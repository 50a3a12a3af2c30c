"""Run a verification: media, encoders, then every case through fusion, decoder and greedy decoding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vita.checkpoint.files import is_file
from vita.checkpoint.open import open_checkpoint
from vita.engine.loaded import LoadedModel
from vita.errors import RequestError
from vita.media.audio import load_audio
from vita.media.filterbank import filterbank
from vita.media.image import cut_tiles, load_image
from vita.media.normalise import to_pixels
from vita.options import EngineOptions
from vita.types import Audio, MediaOptions
from vita.verify.cases import verify_case
from vita.verify.encoders import verify_audio, verify_vision
from vita.verify.rows import Reference, Row, compare, compare_bytes, compare_filterbank
from vita.verify.tables import verify_tables

REFERENCE = MediaOptions(reference=True)
DEFAULT_OPTIONS = EngineOptions(device="cpu", dtype="float32")


@dataclass(frozen=True)
class Inputs:
    """The media of a set by name, decoded in reference mode."""

    pixels: dict[str, Tensor]  # float32 [tiles or frames, 3, S, S]
    filterbanks: dict[str, Tensor]  # float32 [T, 80]


def run(folder: Path, options: EngineOptions = DEFAULT_OPTIONS) -> Iterator[Row]:
    """Yield a row for every comparison that the set allows, each as soon as it is made.

    Args:
        folder: the reference set; its `model/model.json` names the checkpoint and inputs.
        options: how the model is loaded. Half-precision dtypes have wider tolerances. With `quantize`, differences are
            divided by each stage's RMS, and the quantised model is also compared with the original one.

    Raises:
        RequestError: the folder has no model/model.json. CheckpointError: the checkpoint cannot be used.
    """
    description = folder / "model" / "model.json"
    if not is_file(description):
        raise RequestError(
            "is not a reference set: it has no model/model.json", where=folder,
            fix="pass a folder that holds a checkpoint and its reference numbers",
        )  # fmt: skip
    reference = json.loads(description.read_text(encoding="utf-8"))
    checkpoint = open_checkpoint(folder / reference["inputs"]["checkpoint"], offline=options.offline)
    model = LoadedModel(checkpoint, options)
    # A checkpoint that is stored quantised has no original to be compared with.
    original = replace(options, quantize=None)
    plain = LoadedModel(checkpoint, original) if model.quantize and not checkpoint.quantized else None
    numbers = Reference(folder, model.dtype, quantized=model.quantize is not None)
    inputs = read_inputs(folder, reference["inputs"], model)
    yield from verify_media(inputs, reference, numbers)
    with torch.inference_mode():
        if "image" in inputs.pixels:
            yield from verify_vision(model, inputs.pixels["image"][:1], numbers)
        yield from verify_audio(model, inputs.filterbanks, numbers)
        for name, case in reference["cases"].items():
            yield from verify_case(model, name, case, inputs.pixels, inputs.filterbanks, numbers, plain)
    yield from verify_tables(folder, model)


def read_inputs(folder: Path, names: dict[str, Any], model: LoadedModel) -> Inputs:
    """Decode every input file of a set: images, lists of video frames, audio.

    Args:
        folder: of the set.
        names: file names by media name, which begins with `image`, `video` or `audio`.
        engine: for the checkpoint's preprocessing.
    """
    pixels: dict[str, Tensor] = {}
    banks: dict[str, Tensor] = {}
    for key, value in names.items():
        if key.startswith("image"):
            image = load_image(folder / value, REFERENCE)
            pixels[key] = to_pixels(cut_tiles(image, model.config.tiling), model.config.image)
        elif key.startswith("video"):
            pixels[key] = to_pixels([load_image(folder / v, REFERENCE) for v in value], model.config.image)
        elif key.startswith("audio"):
            rate = model.config.filterbank.sample_rate
            wave = load_audio(Audio(folder / value), REFERENCE, rate)
            banks[key] = filterbank(torch.from_numpy(wave.samples), model.config.filterbank)
    return Inputs(pixels, banks)


def verify_media(inputs: Inputs, reference: dict[str, Any], numbers: Reference) -> Iterator[Row]:
    """Compare pixels by hash, a strided sample of them, and filterbanks, which are then replaced by the reference's.

    CPUs round an FFT differently. With the reference's filterbanks this difference does not reach the encoder's rows.
    """
    for key, pixels in inputs.pixels.items():
        yield compare_bytes("pixels", key, pixels, reference.get(key, {}).get("pixel_values_sha256_float32"))
        strided = numbers.folder / "model" / f"{key}_pixels_strided.npz"
        if strided.is_file():
            yield _compare_strided(key, pixels, strided)
    for key, bank in inputs.filterbanks.items():
        theirs = numbers.array(f"{key}_fbank")
        if theirs is None:
            yield Row("filterbank", key, None, 0.0, f"{key}_fbank.npy is absent")
        else:
            yield compare_filterbank(key, bank, theirs)
            inputs.filterbanks[key] = theirs


def _compare_strided(key: str, pixels: Tensor, file: Path) -> Row:
    """Compare a strided sample: every n-th pixel of both sides from n / 4 on."""
    import numpy as np

    with np.load(file, allow_pickle=False) as archive:
        theirs = torch.from_numpy(archive[archive.files[0]])
    step = pixels.shape[-1] // theirs.shape[-1]
    return compare("pixels, strided", key, pixels[:, :, step // 4 :: step, step // 4 :: step], theirs, 0.0)
