"""The trainer's schedule, first weights, scoring and plots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from recipes.nano.average import average
from recipes.nano.data import QA
from recipes.nano.feed import build_batch
from recipes.nano.model import Learner, sizes
from recipes.nano.pack import Packer
from recipes.nano.plots import draw_curves
from recipes.nano.schedule import CURRICULUM, Phase, next_phase
from recipes.nano.score import Blind, holds, lines, markdown, points, score, wilson
from recipes.nano.steps import losses
from recipes.nano.tiles import normalise, tiles_of, training_tiles
from recipes.nano.tokenizer import build_tokenizer

from vita.prompt.tokenizer import Tokenizer
from vita.train import schedule
from vita.train.checkpoint import FILE, read_state
from vita.train.schedule import ActiveClock, learning_rate


def test_a_phase_ends_when_its_time_is_up_or_when_it_is_read() -> None:
    assert next_phase(CURRICULUM, 0, 0.01, 0.9, steps_in=3) == 0  # the mean is still the last phase's
    assert next_phase(CURRICULUM, 0, 0.01, 0.9, steps_in=100) == 1
    assert next_phase(CURRICULUM, 0, 0.01, 0.3, steps_in=100) == 0
    assert next_phase(CURRICULUM, 0, CURRICULUM[0].until, 0.0, steps_in=9) == 1
    assert next_phase(CURRICULUM, 0, 0.99, 0.0, steps_in=9) == len(CURRICULUM) - 1
    assert CURRICULUM[-1].until == 1.0


def test_the_rate_warms_up_stays_and_falls() -> None:
    rates = [learning_rate(1.0, step, share) for step, share in ((0, 0.0), (500, 0.3), (500, 0.66), (500, 0.9))]
    assert rates[0] < 0.01 and rates[1] == rates[2] == 1.0 and rates[3] == pytest.approx(0.3)


def test_a_pause_costs_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])
    clock = ActiveClock(1.0)
    for seconds, expected in ((1.0, 1.0), (300.0, 1.0 + schedule.LONGEST_STEP), (2.0, 3.0 + schedule.LONGEST_STEP)):
        now[0] += seconds
        clock.tick()
        assert clock.spent == expected
    now[0] += 50
    clock.skip()
    assert clock.tick() * 60 == clock.spent == 3.0 + schedule.LONGEST_STEP


def test_drills_teach_the_decoder_and_leave_the_eyes_alone(tmp_path: Path) -> None:
    build_tokenizer(tmp_path)
    packer = Packer(Tokenizer.load(tmp_path))
    model = Learner(sizes("tiny", packer.tokenizer.size))
    only = Phase("lists", 1.0, (("drill", 1.0),), 0.0, True, eyes=False)
    with_pictures = Phase("lists", 1.0, (("drill", 0.5), ("mix", 0.5)), 0.0, True, eyes=False)
    for phase in (only, with_pictures):
        batch = build_batch(packer, (phase,), 0, 0, 4, seed=1)
        assert (len(batch.tiles) == 0) == (phase is only)
        loss, measured = losses(model, batch, phase.dense, torch.device("cpu"), eyes=phase.eyes)
        assert measured["answer"] > 0
        loss.backward()
        assert all(p.grad is None for part in (model.vision, model.projector) for p in part.parameters())
        assert model.decoder.norm.weight.grad is not None


def test_first_blocks_look_at_neighbours() -> None:
    torch.manual_seed(0)
    model = Learner(sizes("small", 900))
    block, grid = model.vision.layers[0], model.vision.config.grid
    with torch.no_grad():
        x = block.norm1(model.vision.embed(torch.randn(1, 3, 224, 224)))
        q, k, _ = block.attn.qkv(x).split(x.shape[-1], dim=-1)
    heads = block.attn.heads
    q, k = (t.view(-1, heads, t.shape[-1] // heads)[1:] for t in (q, k))
    for head, step in ((0, -1), (1, 1), (2, -grid), (3, grid)):
        scores = q[:, head] @ k[:, head].T
        inner = [r * grid + c for r in range(1, grid - 1) for c in range(1, grid - 1)]
        found = sum(int(scores[at].argmax()) == at + step for at in inner)
        assert found > 0.9 * len(inner)


def test_a_wide_picture_is_cut_and_a_square_one_is_not() -> None:
    import numpy as np

    assert tiles_of(np.zeros((224, 224, 3), np.uint8)).shape == (1, 224, 224, 3)
    wide = np.zeros((200, 800, 3), np.uint8)
    wide[:, 600:] = 255
    tiles = tiles_of(wide)
    assert tiles.shape == (5, 224, 224, 3) and tiles[3].min() > 200 and tiles[0].max() == 0
    assert normalise(torch.from_numpy(tiles)).shape == (5, 3, 224, 224)


@pytest.mark.parametrize("size", [(224, 224), (60, 90), (720, 540), (1280, 720), (2798, 770), (200, 800)])
def test_training_cuts_as_the_engine_does(size: tuple[int, int]) -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(sum(size)).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))
    fast, exact = training_tiles(picture), tiles_of(picture)
    assert fast.dtype == np.uint8 and fast.shape == exact.shape
    assert np.abs(fast.astype(int) - exact).max() <= 2


@pytest.mark.parametrize(
    ("answer", "key", "right"),
    [
        ("The background is dark purple.", "dark purple", True),
        ("The background is dark purple.", "purple", False),
        ("The text is red.", "red", True),
        ("The text is colored.", "red", False),
        ("There are 12 bars.", "1", False),
        ("It says 'VITA'.", "'VITA'", True),
        ("It says 'Vita'.", "'VITA'", False),
        ("Yes, there is an icon.", "yes", True),
        ("No, the text is not bold.", "yes", False),
        ("There are no stars.", "no", True),
        ("There is no chart in the image.", "no chart", True),
        ("The image shows the number '7' in red.", "'7'", True),
    ],
)
def test_what_counts_as_right(answer: str, key: str, right: bool) -> None:
    assert holds(answer, key) is right


def test_captions_win_a_point_for_each_attribute() -> None:
    qa = QA("Describe.", "…", "caption_words", "'VITA'|in bold white letters|a dark blue background")
    assert points(qa, "The image shows the word 'VITA' in white letters on a dark blue background.") == (2, 3)


def test_the_table_holds_counts_intervals_and_the_blind_answer() -> None:
    asked = [QA("Color?", f"The text is {c}.", "text_color", c) for c in ("red", "red", "blue", "green")]
    scored = score(asked, ["The text is red."] * 3 + ["The text is green."], Blind(asked))
    (row,) = lines(scored)
    assert (row.right, row.of, row.exact, row.blind) == (3, 4, 3, 2)
    assert "| 75.0 % | 30 to 95 | 4 | 75.0 % | 50.0 % | 92 |" in markdown("Held out", [row])


def test_wilson_against_a_published_value() -> None:
    low, high = wilson(81, 263)  # Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 0) == (0.0, 1.0) and wilson(5, 5)[1] == 1.0


def test_curves_are_drawn(tmp_path: Path) -> None:
    records = [{"kind": k, "share": s, "dense": 3.0, "char": s} for k in ("train", "heldout") for s in (0.1, 0.9)]
    (tmp_path / "curves.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    draw_curves(tmp_path / "curves.jsonl", tmp_path / "curves.png")
    picture = Image.open(tmp_path / "curves.png")
    assert len(set(picture.get_flattened_data() if hasattr(picture, "get_flattened_data") else picture.getdata())) > 10


def test_the_mean_of_runs_has_the_mean_of_their_weights(tmp_path: Path) -> None:
    for name, value in (("one", 1.0), ("two", 4.0)):
        (tmp_path / name / "tokenizer").mkdir(parents=True)
        (tmp_path / name / "tokenizer" / "tokenizer.json").write_text(name, encoding="utf-8")
        weights = {"w": torch.full((2, 3), value), "count": torch.tensor(int(value))}
        torch.save({"model": weights, "preset": name}, tmp_path / name / FILE)
    average([tmp_path / "one", tmp_path / "two"], tmp_path / "mean")
    made = read_state(tmp_path / "mean")
    assert torch.equal(made["model"]["w"], torch.full((2, 3), 2.5)) and int(made["model"]["count"]) == 4
    assert made["preset"] == "two" and (tmp_path / "mean" / "tokenizer" / "tokenizer.json").read_text() == "two"
