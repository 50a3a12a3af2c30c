"""The tiny setting learns (slow), a killed run goes on as if nothing had happened, and the engine loads an export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipes.nano.checkpoint import load_weights
from recipes.nano.decode import Answerer, Asked
from recipes.nano.export import export, load_run
from recipes.nano.pictures import Options, Run

from vita.checkpoint.load import load_model
from vita.checkpoint.open import open_checkpoint
from vita.prompt.tokenizer import Tokenizer
from vita.train.checkpoint import FILE, read_state

STEPS, FEW_STEPS = 146, 4


def options(out: Path, steps: int, *, resume: bool = False) -> Options:
    return Options(
        out, minutes=60, batch=16, rate=4e-3, tiny=True, worker=False, steps=steps, resume=resume, warm_up=15
    )


def trained(out: Path, steps: int) -> Run:
    run = Run(options(out, steps))
    run.train()
    return run


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run long enough to know something: minutes."""
    return trained(tmp_path_factory.mktemp("learned"), STEPS)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a few steps: weights that moved, answers that mean nothing."""
    return trained(tmp_path_factory.mktemp("short"), FEW_STEPS)


def export_of(run: Run) -> Path:
    out = run.options.out / "export"
    model, tokenizer = load_run(run.options.out)
    export(model, tokenizer, out)
    return out


@pytest.mark.slow
def test_it_learns(learned: Run) -> None:
    held_out = learned.evaluate(1.0)
    assert held_out["token"] > 0.6, held_out
    assert held_out["answer"] < 1.4, held_out
    assert held_out["color"] > 0.15, held_out  # a guess is right for one in twelve


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_data_and_ends_alike(short: Run, tmp_path: Path) -> None:
    trained(tmp_path / "parts", 2)
    (tmp_path / "parts" / f"{FILE}.tmp").write_bytes(b"half a state")  # killed while saving
    rest = Run(options(tmp_path / "parts", FEW_STEPS, resume=True))
    assert (rest.progress.step, rest.progress.index) == (2, 32)
    rest.train()
    for name, value in read_state(short.options.out)["model"].items():
        torch.testing.assert_close(rest.model.state_dict()[name], value, atol=1e-6, rtol=1e-5)


def test_what_is_frozen_stays_as_it_is(tmp_path: Path) -> None:
    run = Run(replace(options(tmp_path, 1), freeze=("vision.",)))
    before = {name: parameter.clone() for name, parameter in run.model.named_parameters()}
    run.train()
    changed = {n.partition(".")[0] for n, p in run.model.named_parameters() if not torch.equal(p, before[n])}
    assert {"decoder", "projector"} <= changed and "vision" not in changed


def test_the_engine_loads_the_export(short: Run) -> None:
    exported = export_of(short)
    checkpoint = open_checkpoint(exported, offline=True)
    size = Tokenizer.load(exported).size
    assert checkpoint.config.tiling.max_tiles == 4 and checkpoint.config.image.size == 224
    assert checkpoint.untrained == ("audio",)
    size_of, config = short.model.size, checkpoint.config
    assert (config.decoder, config.vision, config.audio) == (size_of.decoder, size_of.vision, size_of.audio)
    for part, module in load_model(checkpoint, size, torch.float32, torch.device("cpu")).parts():
        loaded = module.state_dict()
        for name, value in getattr(short.model, part).state_dict().items():
            torch.testing.assert_close(loaded[name], value, atol=1e-6, rtol=8e-3)  # stored in bfloat16
    assert json.loads((exported / "config.json").read_text())["vocab_size"] == size


@pytest.mark.slow
def test_answers_are_the_same_alone_and_in_company(learned: Run) -> None:
    answerer = Answerer.load(export_of(learned))
    questions = ["Hello.", "Who are you?", "What can you do?", "Tell me a joke.", "Hi"]
    asked = [Asked(question, None) for question in questions]
    asked.append(Asked("Tell me a joke.", None, (("Hello.", "Hello! You can ask me about simple pictures."),)))
    together = answerer.answer(asked, [])
    assert together == [answerer.answer([one], [])[0] for one in asked]
    assert any("simple pictures" in answer for answer in together)


def test_weights_of_another_model_are_refused(short: Run) -> None:
    weights = {k: v for k, v in short.model.state_dict().items() if not k.startswith("audio.")}
    load_weights(short.model, weights)
    with pytest.raises(ValueError, match=r"decoder\.norm\.weight"):
        load_weights(short.model, {k: v for k, v in weights.items() if k != "decoder.norm.weight"})


def test_a_run_can_go_on_from_the_shipped_model(tmp_path: Path) -> None:
    from recipes.nano.checkpoint import hears, read_shipped
    from recipes.nano.model import Learner, sizes

    from vita.checkpoint.files import DEFAULT

    weights = read_shipped(DEFAULT)
    assert hears(weights), "the ears are built as the recipe builds them"
    model = Learner(sizes("hearing", Tokenizer.load(DEFAULT).size), len(weights["words.bias"]))
    load_weights(model, weights)
    answerer = Answerer.load(DEFAULT)
    torch.testing.assert_close(model.decoder.norm.weight, answerer.decoder.norm.weight)
    assert model.dense.weight.abs().sum() > 0
