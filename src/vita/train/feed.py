"""Batches drawn by worker processes into shared memory, in an order that does not depend on their speed.

Batches have numbers. Each is a pure function of its number and of the phase it is drawn for. Workers draw them ahead
of the trainer into a ring of entries; a block of batches is trained several times, in another order each, if drawing is
slower than training.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch

Arrays = Mapping[str, np.ndarray]
Build = Callable[[int, int], Arrays]  # from a number and a phase
MAX_PHASES = 32
ALIGN = 64
POLL = 0.001  # seconds


@dataclass(frozen=True)
class Order:
    """In which order numbered batches are trained: blocks of `block`, each `repeats` times."""

    block: int = 8
    repeats: int = 1
    seed: int = 0

    def number(self, index: int) -> int:
        """The batch that is trained at place `index` of the run."""
        block, place = divmod(index, self.block * self.repeats)
        repeat, at = divmod(place, self.block)
        if repeat:
            order = list(range(self.block))
            Random(f"{self.seed}/{block}/{repeat}").shuffle(order)
            at = order[at]
        return block * self.block + at

    def block_start(self, index: int) -> int:
        """The first batch of the block that place `index` belongs to."""
        return index // (self.block * self.repeats) * self.block


@dataclass(frozen=True)
class Drawn:
    """A batch with its place.

    Attributes:
        index: place in the run.
        number: of the batch.
        phase: it was drawn for.
        arrays: by name, valid until the next batch is asked for.
    """

    index: int
    number: int
    phase: int
    arrays: Arrays


class WorkerDied(RuntimeError):
    """A worker process ended; its error is on stderr."""


class SharedFeed:
    """Worker processes and the ring they draw into.

    Args:
        make: called once in each worker; returns what draws a batch.
        entry_bytes: space for one batch; pages that are not written take none.
        order: of training.
        workers: number of processes.
    """

    def __init__(self, make: Callable[[], Build], entry_bytes: int, order: Order, workers: int) -> None:
        self.make, self.order, self.workers = make, order, workers
        self.entries = 2 * order.block
        self.entry_bytes = -(-entry_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._context = multiprocessing.get_context("fork")
        self._memory = _shared_memory(self.entries * self.entry_bytes)
        self._lock = self._context.Lock()
        self._next = self._context.RawValue(ctypes.c_long, 0)
        self._released = self._context.RawValue(ctypes.c_long, 0)  # batches before this one are trained
        self._ready = self._context.RawArray(ctypes.c_long, self.entries)  # number + 1 of the batch in each entry
        self._phase = self._context.RawArray(ctypes.c_long, self.entries)
        self._starts = self._context.RawArray(ctypes.c_long, [0] + [2**62] * (MAX_PHASES - 1))
        self._seconds = self._context.RawArray(ctypes.c_double, max(1, workers))  # spent drawing, by worker
        self._drawn = self._context.RawArray(ctypes.c_long, max(1, workers))
        self._processes: list[multiprocessing.process.BaseProcess] = []

    def start(self, index: int, starts: list[int]) -> None:
        """Begin to draw for place `index`, with the phases' first batches as `enter_phase` returned them."""
        first = self.order.block_start(index)
        self._next.value = self._released.value = first
        trainer = os.getpid()
        for phase, number in enumerate(starts, start=1):
            self._starts[phase] = number
        for worker in range(self.workers):
            process = self._context.Process(target=self._work, args=(worker, trainer), daemon=True)
            process.start()
            self._processes.append(process)

    def enter_phase(self, phase: int) -> int:
        """Draw for `phase` from the next batch that no worker has begun; returns its number."""
        with self._lock:
            self._starts[phase] = min(self._starts[phase], self._next.value)
            for skipped in range(1, phase):
                self._starts[skipped] = min(self._starts[skipped], self._starts[phase])
            return int(self._starts[phase])

    def starts(self, phase: int) -> list[int]:
        """The first batches of the phases 1 to `phase`."""
        return [int(self._starts[k]) for k in range(1, phase + 1)]

    def batches(self, index: int) -> Iterator[Drawn]:
        """Batches without end from place `index` on.

        Raises:
            WorkerDied: a worker ended.
        """
        while True:
            self._released.value = self.order.block_start(index)
            number = self.order.number(index)
            entry = number % self.entries
            while self._ready[entry] != number + 1:
                self._check_workers()
                time.sleep(POLL)
            yield Drawn(index, number, int(self._phase[entry]), self._read(entry))
            index += 1

    def speed(self) -> tuple[int, float]:
        """Batches drawn so far, and the seconds that workers spent drawing them."""
        return sum(self._drawn), sum(self._seconds)

    def close(self) -> None:
        """End the workers."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(5)
        self._processes = []

    def _check_workers(self) -> None:
        for process in self._processes:
            if process.exitcode is not None:
                raise WorkerDied(f"a process that draws batches ended with code {process.exitcode}")

    def _work(self, worker: int, trainer: int) -> None:
        torch.set_num_threads(1)
        try:
            build = self.make()
            while os.getppid() == trainer:  # not after a trainer that was killed, also before this process ran
                number = self._claim()
                if number is None:
                    time.sleep(POLL)
                    continue
                began = time.perf_counter()
                phase = max(k for k in range(MAX_PHASES) if self._starts[k] <= number)
                entry = number % self.entries
                self._write(entry, build(number, phase))
                self._phase[entry] = phase
                self._ready[entry] = number + 1
                self._seconds[worker] += time.perf_counter() - began
                self._drawn[worker] += 1
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # no exit handlers of the trainer's libraries in its copy

    def _claim(self) -> int | None:
        with self._lock:
            number = self._next.value
            if number >= self._released.value + self.entries:
                return None
            self._next.value = number + 1
            return int(number)

    def _write(self, entry: int, arrays: Arrays) -> None:
        header = json.dumps([[k, str(a.dtype), list(a.shape)] for k, a in arrays.items()]).encode()
        at = entry * self.entry_bytes
        end = at + self.entry_bytes
        self._memory[at : at + 8] = len(header).to_bytes(8, "little")
        self._memory[at + 8 : at + 8 + len(header)] = header
        at = _aligned(at + 8 + len(header))
        for name, array in arrays.items():
            if at + array.nbytes > end:
                raise ValueError(f"a batch needs more than {self.entry_bytes} bytes, at {name!r}")
            into = np.frombuffer(self._memory, array.dtype, array.size, at)
            into[:] = array.reshape(-1)
            at = _aligned(at + array.nbytes)

    def _read(self, entry: int) -> dict[str, np.ndarray]:
        at = entry * self.entry_bytes
        length = int.from_bytes(self._memory[at : at + 8], "little")
        header = json.loads(self._memory[at + 8 : at + 8 + length])
        at = _aligned(at + 8 + length)
        arrays = {}
        for name, kind, shape in header:
            dtype = np.dtype(kind)
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(self._memory, dtype, count, at).reshape(shape)
            at = _aligned(at + count * dtype.itemsize)
        return arrays


def _aligned(at: int) -> int:
    return -(-at // ALIGN) * ALIGN


def _shared_memory(size: int) -> mmap.mmap:
    """Memory that forked processes share: in RAM where there is enough of it, else backed by a temporary file."""
    for folder in (Path("/dev/shm"), Path(tempfile.gettempdir())):
        if folder.is_dir():
            space = os.statvfs(folder)
            if space.f_bavail * space.f_frsize > 1.2 * size:
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.truncate(size)
                    return mmap.mmap(file.fileno(), size)
    raise OSError(f"no folder has {size / 1e9:.1f} GB free for the batches that are drawn ahead")
