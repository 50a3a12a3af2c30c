"""A model is built once, on the meta device, and its parts are loaded when they are first used."""

from __future__ import annotations

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tests.speech.checkpoints import write_speech
from torch import nn

from vita.checkpoint.open import open_checkpoint
from vita.engine.loaded import LoadedModel
from vita.errors import RequestError, ResourceError
from vita.model.audio import AudioEncoder
from vita.model.decoder import Decoder
from vita.model.projectors import AudioAdapter, Projector
from vita.model.vision import VisionEncoder
from vita.options import EngineOptions, Quantize

PARTS = {"decoder", "vision", "projector", "audio", "adapter"}
CLASSES = (Decoder, VisionEncoder, Projector, AudioEncoder, AudioAdapter)


@pytest.mark.parametrize("options", [EngineOptions(), EngineOptions(quantize="int4"), EngineOptions(memory="8GB")])
def test_every_module_is_built_once_a_load(mini: Path, monkeypatch: pytest.MonkeyPatch, options: EngineOptions) -> None:
    built: Counter[str] = Counter()

    def counting(kind: type[nn.Module]) -> None:
        original = kind.__init__

        def init(self: nn.Module, *args: object, **named: object) -> None:
            built[kind.__name__] += 1
            original(self, *args, **named)

        monkeypatch.setattr(kind, "__init__", init)

    for kind in CLASSES:
        counting(kind)
    model = LoadedModel(open_checkpoint(mini / "mini_ckpt"), options)
    model.warm_up()
    assert built == {kind.__name__: 1 for kind in CLASSES}


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_progress_reaches_its_total_whatever_is_quantised(mini: Path, quantize: Quantize | None) -> None:
    told: list[tuple[str, int, int]] = []
    options = EngineOptions(device="cpu", quantize=quantize)
    model = LoadedModel(open_checkpoint(mini / "mini_ckpt"), options, lambda *step: told.append(step))
    model.warm_up()
    for part in PARTS:
        steps = [(done, total) for name, done, total in told if name == part]
        counts, totals = zip(*steps, strict=True)
        assert len(steps) > 1 and sorted(set(counts)) == list(counts) and set(totals) == {counts[-1]}


def test_parts_are_loaded_when_first_used_and_once(mini: Path) -> None:
    told: list[tuple[str, int]] = []
    model = LoadedModel(
        open_checkpoint(mini / "mini_ckpt"),
        EngineOptions(device="cpu"),
        lambda part, done, _: told.append((part, done)),
    )
    assert model.loaded == set() and not told
    assert model.vision.patch.device.type == "cpu" and model.loaded == {"vision"}
    with ThreadPoolExecutor(4) as pool:
        decoders = list(pool.map(lambda _: model.decoder, range(8)))
    assert all(decoder is decoders[0] for decoder in decoders) and model.loaded == {"vision", "decoder"}
    model.warm_up()
    assert model.loaded == PARTS
    parts = (model.decoder, model.vision, model.projector, model.audio, model.adapter)
    assert not any(tensor.is_meta for part in parts for tensor in part.state_dict().values())
    assert len(told) == len(set(told)), "no tensor is read twice"
    assert not any(part.training or p.requires_grad for part in parts for p in part.parameters())


def test_the_number_of_threads_is_an_option(mini: Path) -> None:
    before = torch.get_num_threads()
    try:
        LoadedModel(open_checkpoint(mini / "mini_ckpt"), EngineOptions(threads=before + 1))
        assert torch.get_num_threads() == before + 1
        LoadedModel(open_checkpoint(mini / "mini_ckpt"), EngineOptions())
        assert torch.get_num_threads() == before + 1, "automatic: left alone"
    finally:
        torch.set_num_threads(before)


def test_a_converted_checkpoint_keeps_its_speech_decoder(mini: Path, tmp_path: Path) -> None:
    from vita.checkpoint.convert import convert

    shutil.copytree(mini, tmp_path / "mini", ignore=shutil.ignore_patterns("inputs", "model"))
    folder, out = tmp_path / "mini" / "mini_ckpt", tmp_path / "out"
    write_speech(folder / "vita_tts_ckpt")
    convert(open_checkpoint(folder), out, "int8")
    kept = [file.relative_to(folder) for file in (folder / "vita_tts_ckpt").rglob("*") if file.is_file()]
    assert len(kept) == 4 and all((out / name).read_bytes() == (folder / name).read_bytes() for name in kept)


def test_a_conversion_needs_room_for_the_speech_decoder_too(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vita.checkpoint.convert import convert

    shutil.copytree(mini, tmp_path / "mini", ignore=shutil.ignore_patterns("inputs", "model"))
    folder = tmp_path / "mini" / "mini_ckpt"
    write_speech(folder / "vita_tts_ckpt")
    checkpoint = open_checkpoint(folder)
    free = sum(entry.bytes for entry in checkpoint.store.entries.values()) * 6 // 10  # enough without it
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    with pytest.raises(ResourceError, match="are free; free some"):
        convert(checkpoint, tmp_path / "out", "int8")


def test_errors_name_the_option(mini: Path, tmp_path: Path) -> None:
    from vita.checkpoint.convert import convert

    convert(open_checkpoint(mini / "mini_ckpt"), tmp_path / "out", "int8")
    for other in ("int4", "none"):
        with pytest.raises(RequestError, match=f"quantize: {other} was asked for, but the checkpoint is"):
            LoadedModel(open_checkpoint(tmp_path / "out"), EngineOptions(quantize=other))
    assert LoadedModel(open_checkpoint(tmp_path / "out"), EngineOptions(quantize="int8")).quantize == "int8"
