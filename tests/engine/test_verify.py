"""`vita verify` passes on the committed set, and on sets of other sizes, padding and truncation; and it does fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.checkpoints import edit_json, random_like, read_tensors, write_single

from vita.checkpoint.open import open_checkpoint
from vita.engine.loaded import LoadedModel
from vita.errors import CheckpointError, RequestError
from vita.options import EngineOptions
from vita.prompt.template import ids_of_reference_prompt
from vita.verify import Row, run
from vita.verify.cases import greedy
from vita.verify.run import Inputs, read_inputs


def failed(rows: list[Row]) -> list[Row]:
    return [r for r in rows if r.status == "fail"]


def having(rows: list[Row], status: str) -> set[tuple[str, str]]:
    """Stage and case of the rows that ended so."""
    return {(r.stage, r.case) for r in rows if r.status == status}


@pytest.fixture(scope="module")
def float32_rows(mini: Path) -> list[Row]:
    return list(run(mini))


def test_mini_passes_in_float32(float32_rows: list[Row]) -> None:
    rows = float32_rows
    assert not failed(rows), failed(rows)
    assert {stage for stage, _ in having(rows, "skipped")} == {"table"}, "the set holds every number but the tables"
    stages = {stage for stage, _ in having(rows, "pass")}
    assert stages >= {
        "pixels", "filterbank", "ViT embeddings", "ViT layer 0", "ViT last layer", "tower", "projector", "cmvn",
        "subsampling", "encoder", "adapter", "fused", "hidden states", "logits", "greedy ids, cached",
        "greedy ids, not cached", "prompt ids", "fused length",
    }  # fmt: skip
    assert any(r.case == "padded batch" for r in rows)


@pytest.mark.slow
def test_tiny_passes_in_float32(big_goldens: Path) -> None:
    rows = list(run(big_goldens / "tiny"))
    assert not failed(rows), failed(rows)
    stages = {r.stage for r in rows if r.status == "pass"}
    assert stages >= {"tokenizer", "grids", "video frames", "system texts", "prompt ids"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_within_its_marks(mini: Path, float32_rows: list[Row], dtype: str) -> None:
    rows = list(run(mini, EngineOptions(device="cpu", dtype=dtype)))
    assert not failed(rows), failed(rows)
    assert having(rows, "pass") == having(float32_rows, "pass"), "nothing is left out that float32 is compared by"


def test_a_changed_weight_is_caught_at_the_stage_it_is_in(mini: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(mini, tmp_path / "set"))
    tensors = read_tensors(copy / "mini_ckpt")
    tensors["model.mm_projector.2.bias"] += 0.01
    write_single(copy / "mini_ckpt", tensors)
    rows = list(run(copy))
    bad = {r.stage for r in failed(rows)}
    assert {"projector", "fused", "logits"} <= bad
    assert not bad & {"pixels", "tower", "ViT layer 0", "encoder", "adapter", "prompt ids"}


def test_stages_without_a_file_are_skipped_and_said(mini: Path, float32_rows: list[Row], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(mini, tmp_path / "set"))
    (copy / "model" / "audio1_layer0.npy").unlink()
    rows = list(run(copy))
    (skipped,) = [r for r in rows if r.status == "skipped" and r.stage != "table"]
    assert skipped.note == "audio1_layer0.npy is absent" and not failed(rows)
    assert having(float32_rows, "pass") - having(rows, "pass") == {(skipped.stage, skipped.case)}


def test_what_is_no_set_is_refused(mini: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is not a reference set: it has no model/model\.json"):
        list(run(tmp_path))
    copy = Path(shutil.copytree(mini, tmp_path / "set"))
    shutil.rmtree(copy / "mini_ckpt")
    with pytest.raises(CheckpointError, match="no such folder"):
        list(run(copy))


def other_sizes(mini: Path, out: Path) -> Path:
    """A random set with other widths, depths and tile size, padded pictures, and a prompt longer than the limit."""
    shutil.copytree(mini, out)
    for name in ("model",):
        for file in (out / name).glob("*.np*"):
            file.unlink()
    place = out / "mini_ckpt"
    edit_json(place / "config.json", lambda c: c.update(num_hidden_layers=3, image_aspect_ratio="pad",
                                                        tokenizer_model_max_length=250))  # fmt: skip
    tower = out / "InternViT-mini-112px"
    edit_json(tower / "config.json", lambda c: c.update(image_size=140, num_hidden_layers=3))
    edit_json(tower / "preprocessor_config.json", lambda c: c.update(size=140, crop_size=140))
    tensors = read_tensors(place)
    for name in [n for n in tensors if ".layers.1." in n]:
        tensors[name.replace(".layers.1.", ".layers.2.")] = tensors[name].clone()
    positions = "model.vision_tower.vision_tower.embeddings.position_embedding"
    tensors[positions] = torch.zeros(1, 1 + 100, tensors[positions].shape[-1])
    keep = {n: t for n, t in tensors.items() if "cmvn" in n}
    write_single(place, random_like(tensors) | keep)
    return out


def test_other_sizes_padding_and_a_truncated_prompt(mini: Path, tmp_path: Path) -> None:
    folder = other_sizes(mini, tmp_path / "set")
    model = LoadedModel(open_checkpoint(folder / "mini_ckpt"), EngineOptions(device="cpu", dtype="float32"))
    assert model.config.image.pad and model.config.tiling.tile == 140
    data = json.loads((folder / "model" / "model.json").read_text())
    inputs = read_inputs(folder, data["inputs"], model)
    for case in data["cases"].values():
        describe(model, case, inputs)
    assert any(case["fused_len"] == 250 for case in data["cases"].values()), "a case is cut off"
    for key in list(data):
        if key in inputs.pixels and isinstance(data[key], dict):
            data[key].pop("pixel_values_sha256_float32", None)
    (folder / "model" / "model.json").write_text(json.dumps(data))
    rows = list(run(folder))
    assert not failed(rows), failed(rows)
    assert sum(r.stage.startswith("greedy") and r.status == "pass" for r in rows) == 2 * len(data["cases"])


def describe(model: LoadedModel, case: dict[str, object], inputs: Inputs) -> None:
    """What a reference of this checkpoint would say: computed by parts, the picture's rows spliced by hand."""
    sounds = [m for m in case["media"] if m in inputs.filterbanks]  # type: ignore[attr-defined]
    ids = ids_of_reference_prompt(str(case["prompt"]), model.tokenizer, audio=bool(sounds))
    rows: list[torch.Tensor] = []
    with torch.inference_mode():
        tiles = [t for m in case["media"] if m in inputs.pixels for t in inputs.pixels[m]]  # type: ignore[attr-defined]
        pictures = iter([model.projector(model.vision(t[None]))[0] for t in tiles])
        banks = iter([inputs.filterbanks[m] for m in sounds])
        for token in ids:
            if token == -200:
                rows.append(next(pictures))
            elif token == -500:
                bank = next(banks)
                out, mask = model.adapter(*model.audio(bank[None], torch.tensor([len(bank)])))
                rows.append(out[0][mask[0]])
            else:
                rows.append(model.decoder.embed.weight[token][None])
        fused = torch.cat(rows)[:250]
        case["input_ids"], case["fused_len"] = ids, len(fused)
        case["greedy_ids"] = greedy(model, fused, len(case["greedy_ids"]), cached=False)  # type: ignore[arg-type]


def test_numbers_are_compared_by_shape_too() -> None:
    from vita.verify.rows import compare

    assert compare("s", "c", torch.zeros(2, 3), torch.zeros(3, 2), 1.0).status == "fail"
    assert compare("s", "c", torch.tensor([float("nan")]), torch.zeros(1), 1.0).status == "fail"
    assert compare("s", "c", torch.from_numpy(np.ones(3)), torch.ones(1, 3), 0.0).status == "pass"
