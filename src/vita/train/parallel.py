"""Data parallelism: each process trains its own batches, and all make the same update.

Two processes of one thread each train faster on two CPU cores than one process of two threads: matrices of a small
model are too small to be shared by threads. The processes are started by PyTorch's launcher:
`torchrun --standalone --nproc-per-node 2 -m recipes.nano.speech.train ...`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn


class DataParallel:
    """The processes of one run.

    Args:
        rank: number of this process.
        size: how many there are. With one, nothing is exchanged.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def from_environment(cls, device: torch.device) -> DataParallel:
        """Joins the processes that `torchrun` started; a process alone where it did not.

        Args:
            device: where gradients are: gloo averages them on CPUs, NCCL on GPUs.
        """
        if "WORLD_SIZE" not in os.environ:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process writes logs and states."""
        return self.rank == 0

    def samples_from(self, first: int, samples: int) -> int:
        """Number of this process's first sample in a step that begins with number `first`.

        Args:
            first: of all processes.
            samples: of each process.
        """
        return first + self.rank * samples

    def next_index(self, after: int, samples: int) -> int:
        """Number of the next step's first sample, from the number `after` that follows this process's samples."""
        return after + (self.size - 1 - self.rank) * samples

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), src=0)

    def agree(self, values: Sequence[float]) -> list[float]:
        """Numbers of the first process: a clock or a mean differs from process to process."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            shared = shared.cuda()
        distributed.broadcast(shared, src=0)
        return [float(value) for value in shared.tolist()]

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            distributed.barrier()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their mean over all processes.

        A gradient that only some processes have counts as zero in the others; one that none has stays None, so that
        its parameter is not updated.
        """
        if self.size == 1:
            return
        device = parameters[0].device
        has = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
        distributed.all_reduce(has)
        taught = [p for p, count in zip(parameters, has.tolist(), strict=True) if count]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in taught])
        distributed.all_reduce(flat)
        for p, mean in zip(taught, (flat / self.size).split([p.numel() for p in taught]), strict=True):
            p.grad = mean.view_as(p).to(p.dtype)
