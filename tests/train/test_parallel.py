"""Several processes that train together make the update of one process with all of their batches."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing import spawn  # type: ignore[attr-defined]  # of PyTorch

from vita.train.checkpoint import Progress, make_state, read_state, save_state
from vita.train.curves import Curves
from vita.train.loop import Loop, LoopOptions, Objective
from vita.train.optimizer import make_adamw
from vita.train.parallel import DataParallel
from vita.train.schedule import ActiveClock

STEPS, SAMPLES = 6, 4
CPU = torch.device("cpu")


class Lines(nn.Module):
    """Two layers; the second is taught by even samples only, the third by none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(3, 3)


def loss_of(model: Lines, numbers: range) -> Tensor:
    x = torch.randn(max(numbers) + 1, 3, generator=torch.Generator().manual_seed(1))[list(numbers)]
    hidden = model.a(x)
    loss: Tensor = hidden.square().mean()
    return loss + model.b(hidden).square().mean() if numbers[0] % (2 * SAMPLES) == 0 else loss


class Fit:
    """The task; `groups` batches are drawn for each process."""

    def __init__(self, model: Lines, parallel: DataParallel, groups: int) -> None:
        self.model, self.parallel, self.groups = model, parallel, groups

    def batches(self, first: int) -> Iterator[list[range]]:
        while True:
            start = self.parallel.samples_from(first, SAMPLES)
            batch = [range(start + k * SAMPLES, start + (k + 1) * SAMPLES) for k in range(self.groups)]
            yield batch
            first = self.next_index(batch)

    def objectives(self, batch: list[range], progress: Progress, share: float) -> Iterator[Objective]:
        loss = torch.stack([loss_of(self.model, numbers) for numbers in batch]).mean()
        yield Objective(loss, {"loss": loss.detach()}, SAMPLES)

    def next_index(self, batch: list[range]) -> int:
        return self.parallel.next_index(batch[-1].stop, SAMPLES)

    def next_phase(self, progress: Progress, share: float, means: object) -> int:
        return self.parallel.rank  # the first process's counts: 0

    def enter_phase(self, progress: Progress) -> None:
        assert progress.phase == 0

    def describe(self, progress: Progress) -> dict[str, float | str]:
        return {}

    def evaluate(self, share: float) -> dict[str, float | str]:
        return {}


def train(folder: Path, parallel: DataParallel, groups: int = 1) -> Progress:
    model = Lines()
    if parallel.rank:  # the first process's weights count
        nn.init.zeros_(model.a.weight)
    optimizer = make_adamw(model)

    def save(now: Progress) -> None:
        save_state(folder, make_state(model.state_dict(), optimizer, now))

    how = LoopOptions(1e-2, warm_up=2, steps=STEPS)
    clock = ActiveClock(60, spent=600.0 * parallel.rank)
    task, curves = Fit(model, parallel, groups), Curves(folder, lambda line: None)
    return Loop(task, model.parameters(), optimizer, Progress(), clock, curves, save, how, parallel).run()


def one_of(rank: int, size: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    parallel = DataParallel.from_environment(CPU)
    (Path(folder) / str(rank)).mkdir()
    train(Path(folder) / str(rank), parallel)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_make_the_updates_of_one_with_both_batches(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(one_of, (2, port, str(tmp_path)), nprocs=2)
    assert not any((tmp_path / "1").iterdir()), "only the first process writes"
    (tmp_path / "alone").mkdir()
    train(tmp_path / "alone", DataParallel(), groups=2)
    pair, alone = read_state(tmp_path / "0"), read_state(tmp_path / "alone")
    assert pair["progress"]["index"] == alone["progress"]["index"] == 2 * SAMPLES * STEPS
    assert pair["model"].keys() == alone["model"].keys()
    for name, value in alone["model"].items():
        torch.testing.assert_close(pair["model"][name], value, atol=1e-6, rtol=1e-5)
    untaught = Lines().c.weight
    assert torch.equal(pair["model"]["c.weight"], untaught), "what no process teaches does not decay"


def test_a_process_alone_exchanges_nothing() -> None:
    alone = DataParallel.from_environment(CPU)
    assert (alone.rank, alone.size, alone.first) == (0, 1, True)
    assert not distributed.is_initialized()
