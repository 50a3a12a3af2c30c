"""The loop trains an adapter over a frozen decoder, stops in time and goes on exactly where it stopped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vita.config import DecoderConfig
from vita.model.decoder import Decoder
from vita.train.checkpoint import (
    FILE,
    Progress,
    has_shards,
    join_float32,
    make_state,
    read_shards,
    read_state,
    restore,
    save_shards,
    save_state,
    split_float32,
    trained_state,
)
from vita.train.curves import Curves, mean_of
from vita.train.loop import Loop, LoopOptions, Objective
from vita.train.losses import answer_loss, grouped_answer_loss
from vita.train.optimizer import Group, make_adamw
from vita.train.packing import RowBatch, Segment, assign_rows, collate, lay_out, pack, segment_mask
from vita.train.schedule import ActiveClock, Clock, WallClock

VOCABULARY = 24


class LowRank(nn.Module):
    """A frozen linear layer plus a trained product of two thin matrices."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + nn.functional.linear(nn.functional.linear(x, self.down), self.up)


def adapted() -> Decoder:
    """A random frozen decoder with adapters on what attention reads and writes."""
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(32, 64, 2, 4, 2, VOCABULARY), VOCABULARY)
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    for layer in decoder.layers:
        for name in ("q", "v", "o"):
            setattr(layer.attn, name, LowRank(getattr(layer.attn, name), 4))
    return decoder


class Repeat:
    """The task: say the token that the prompt begins with."""

    def __init__(self, model: Decoder) -> None:
        self.model = model
        self.entered: list[int] = []

    def batches(self, first: int) -> Iterator[tuple[int, RowBatch]]:
        number = first
        while True:
            dice = torch.Generator().manual_seed(number)
            words = torch.randint(3, VOCABULARY, (8,), generator=dice).tolist()
            yield number, collate([lay_out([1], [Segment([w, 2, w], [0.0, 0.0, 1.0])]) for w in words])
            number += 1

    def objectives(self, batch: tuple[int, RowBatch], progress: Progress, share: float) -> Iterator[Objective]:
        loss, right = answer_loss(self.model, batch[1], None)
        yield Objective(loss, {"loss": loss.detach(), "right": right}, 8)

    def next_index(self, batch: tuple[int, RowBatch]) -> int:
        return batch[0] + 1

    def next_phase(self, progress: Progress, share: float, means: Mapping[str, float]) -> int:
        return int(progress.step >= 3)

    def enter_phase(self, progress: Progress) -> None:
        self.entered.append(progress.phase)

    def describe(self, progress: Progress) -> dict[str, float | str]:
        return {"phase": str(progress.phase)}

    def evaluate(self, share: float) -> dict[str, float | str]:
        return {}


def loop_of(folder: Path, steps: int | None, clock: Clock | None = None) -> tuple[Loop, Repeat]:
    model = adapted()
    task, optimizer, progress = Repeat(model), make_adamw(model, [Group(weight_decay=0.01)]), Progress()
    if (folder / FILE).exists():
        progress = restore(read_state(folder), model, optimizer, strict=False)

    def save(now: Progress) -> None:
        save_state(folder, make_state(trained_state(model), optimizer, now, command="a test"))

    options = LoopOptions(2e-2, warm_up=5, steps=steps, log_seconds=0.0)
    curves = Curves(folder, lambda line: None)
    return Loop(task, model.parameters(), optimizer, progress, clock or ActiveClock(60), curves, save, options), task


def test_an_adapter_learns_and_the_decoder_stays(tmp_path: Path) -> None:
    loop, task = loop_of(tmp_path, 120)
    frozen = {n: p.clone() for n, p in task.model.named_parameters() if not p.requires_grad}
    loop.run()
    assert loop.curves.means["right"] > 0.8
    assert task.entered == [0, 1] and loop.progress.since == 3
    assert all(torch.equal(p, frozen[n]) for n, p in task.model.named_parameters() if n in frozen)
    assert set(read_state(tmp_path)["model"]) == set(trained_state(task.model)), "frozen weights are not saved"


def test_a_run_that_stopped_goes_on_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, _ = loop_of(tmp_path / "whole", 9)
    whole.run()
    loop_of(tmp_path / "parts", 4)[0].run()
    (tmp_path / "parts" / f"{FILE}.tmp").write_bytes(b"half a state")  # killed while saving
    rest, task = loop_of(tmp_path / "parts", 9)
    assert (rest.progress.step, rest.progress.index, rest.progress.phase) == (4, 4, 1)
    rest.run()
    assert task.entered == [1]
    for name, value in read_state(tmp_path / "whole")["model"].items():
        assert torch.equal(value, read_state(tmp_path / "parts")["model"][name]), name


def test_a_run_that_is_resumed_past_its_steps_stops_at_once(tmp_path: Path) -> None:
    loop_of(tmp_path, 4)[0].run()
    resumed, _ = loop_of(tmp_path, 2, WallClock(60, limit=5))  # the limit ends the test if the steps do not
    assert resumed.run().step == 4


def test_a_limit_of_wall_clock_time_ends_the_run_before_its_budget(tmp_path: Path) -> None:
    loop, _ = loop_of(tmp_path, None, WallClock(60, limit=0.3))
    stopped = loop.run()
    assert stopped.step > 0 and stopped.spent < 3600 * 0.5
    assert Progress(**read_state(tmp_path)["progress"]).step == stopped.step


def test_float32_in_two_halves_comes_back_to_the_bit() -> None:
    special = [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1e-40, -1e-45, 3e38, float("inf"), float("-inf"), float("nan")]
    bits = torch.randint(-(2**31), 2**31 - 1, (4096,), generator=torch.Generator().manual_seed(0)).int()
    values = torch.cat([torch.tensor(special), bits.view(torch.float32)])
    high, low = split_float32(values)
    assert torch.equal(join_float32(high, low).view(torch.int32), values.view(torch.int32))
    usual = torch.randn(1000)
    assert (split_float32(usual)[0].float() - usual).abs().max() <= (usual.bfloat16().float() - usual).abs().max()


def test_shards_hold_the_same_state_in_small_files(tmp_path: Path) -> None:
    loop, task = loop_of(tmp_path, 4)
    loop.run()
    weights = trained_state(task.model)
    for step in (4, 5):
        progress = Progress(step, starts=[7])
        save_shards(tmp_path, make_state(weights, loop.optimizer, progress, preset="p"), limit=2000)
    files = sorted(f for f in (tmp_path / "state").iterdir())
    assert has_shards(tmp_path) and len(files) > 5 and all("0000004" not in f.name for f in files)
    state = read_shards(tmp_path)
    assert state["preset"] == "p" and state["progress"]["starts"] == [7]
    other, task_of_other = loop_of(tmp_path / "none", 4) if (tmp_path / "none").mkdir() is None else (loop, task)
    assert restore(state, task_of_other.model, other.optimizer, strict=False).step == 5
    assert all(torch.equal(p, weights[n]) for n, p in trained_state(task_of_other.model).items())
    kept, now = loop.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert kept.keys() == now.keys()
    assert all(torch.equal(kept[k][name], now[k][name]) for k in kept for name in kept[k])
    for file in files:  # only what inference needs was brought along
        if file.name.startswith("rest"):
            file.unlink()
    lean = read_shards(tmp_path)
    assert "optimizer" not in lean
    assert all(torch.equal(lean["model"][n], split_float32(w)[0].float()) for n, w in weights.items())


def test_a_packed_sequence_computes_what_each_row_computes_alone() -> None:
    torch.manual_seed(1)
    decoder = Decoder(DecoderConfig(32, 64, 2, 4, 2, VOCABULARY), VOCABULARY)
    sizes = [(3, (4, 2)), (2, (5,)), (4, (1, 3))]
    rows = [lay_out(range(1, 1 + n), [Segment(list(range(5, 5 + k)), [1.0] * k) for k in parts]) for n, parts in sizes]
    assert assign_rows([len(r.ids) for r in rows], 2, 18) == [[0, 1], [2]]
    with pytest.raises(ValueError, match="row 2 of 8 tokens"):
        assign_rows([len(r.ids) for r in rows], 1, 18)
    packed = pack(rows, [[0, 1], [2]], 18)
    hidden = decoder(decoder.embed(packed.ids), None, packed.position, segment_mask(packed.segment, packed.row))
    for line, start, row in ((0, 0, rows[0]), (0, len(rows[0].ids), rows[1]), (1, 0, rows[2])):
        alone = collate([row])
        wanted = decoder(decoder.embed(alone.ids), None, alone.position, segment_mask(alone.segment))
        torch.testing.assert_close(hidden[line, start : start + len(row.ids)], wanted[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(packed.target[line, start : start + len(row.ids) - 1], alone.target[0, :-1])
    loss, right = answer_loss(decoder, packed, None)
    groups = [collate(rows[:1]), collate(rows[1:])]
    grouped, grouped_right = grouped_answer_loss(decoder, groups, torch.zeros(0, 32))
    torch.testing.assert_close(loss, grouped, atol=1e-5, rtol=1e-5)
    assert 0 <= float(right) <= 1 and 0 <= float(grouped_right) <= 1


def test_measurements_are_read_in_one_transfer(tmp_path: Path) -> None:
    curves = Curves(tmp_path, lambda line: None, hold=3)
    for value in (1.0, 2.0):
        curves.add({"a": torch.tensor(value), "b": value}, 4)
    assert curves.means == {}
    curves.add({"a": torch.tensor(3.0)}, 4)
    assert curves.means["a"] == pytest.approx(1 + 0.05 + 0.05 * (3 - 1.05)) and curves.means["b"] == 1.05
    assert mean_of([{"a": 1.0}, {"a": torch.tensor(3.0), "b": 5.0}]) == {"a": 2.0, "b": 5.0}
