"""GEMVs that helper threads share: equal to the bit to those of one thread, on cores that other processes use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

import pytest
import torch
from torch import Tensor

from vita.kernels.cpu.bindings import Kernels, gemv_helpers, kernels
from vita.quant.int4 import quantize_groups
from vita.quant.int8 import quantize_rows

BUSY = "while True: pass"
# Several chunks, whose channels come along streams or one after another; 4 and 3 do not divide the channels evenly.
SHAPES = ((1031, 1024), (512, 3584), (3, 262144))


@dataclass(frozen=True)
class Case:
    """A product of one thread, to be computed again."""

    compute: Callable[[], Tensor | None]
    alone: Tensor

    def holds(self) -> bool:
        """Whether it is equal now."""
        again = self.compute()
        return again is not None and torch.equal(again, self.alone)


@pytest.fixture(scope="module")
def native() -> Iterator[Kernels]:
    found = kernels()
    if found is None:
        pytest.skip("no C compiler")
    if not found.begin_helpers(1):
        pytest.skip("helper threads need Linux")
    found.end_helpers()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield found
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def products(native: Kernels) -> list[Case]:
    torch.manual_seed(0)
    made: list[Case] = []

    def add(compute: Callable[[], Tensor | None]) -> None:
        alone = compute()
        if alone is not None:
            made.append(Case(compute, alone))

    for n_out, n_in in SHAPES:
        weight = torch.randn(n_out, n_in)
        int4, int8, bf16 = quantize_groups(weight), quantize_rows(weight), weight.bfloat16()
        for rows in (1, 2, 5):
            for dtype in (torch.float32, torch.bfloat16):
                x, bias = torch.randn(rows, n_in).to(dtype), torch.randn(n_out).to(dtype)
                add(partial(native.gemm_int4, x, *int4, bias))
                add(partial(native.gemm_int8, x, *int8, bias))
            add(partial(native.gemm_bf16, x, bf16, bias))
    return made


@pytest.fixture
def busy_core() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    yield
    process.kill()
    process.wait()


def test_shared_products_are_equal_to_the_bit(native: Kernels, products: list[Case], busy_core: None) -> None:
    rng, before = Random(0), native.chunks_of_helpers()
    for _ in range(60):
        with gemv_helpers(rng.choice((1, 1, 2, 5))):
            wrong = [case for case in rng.choices(products, k=rng.randint(1, 20)) if not case.holds()]
        assert not wrong
    assert native.chunks_of_helpers() > before, "the helpers have computed nothing"


def test_outside_nothing_is_shared(native: Kernels, products: list[Case]) -> None:
    native.end_helpers()  # without a begin: nothing happens
    before = native.chunks_of_helpers()
    assert all(case.holds() for case in products)
    with gemv_helpers(0):
        assert all(case.holds() for case in products)
    assert native.chunks_of_helpers() == before


def test_one_thread_has_the_helpers(native: Kernels, products: list[Case]) -> None:
    got: list[int] = []
    right: list[bool] = []

    def other() -> None:
        got.append(native.begin_helpers(2))
        right.append(all(case.holds() for case in products))
        native.end_helpers()  # leaves those of the first thread alone

    with gemv_helpers(2):
        thread = threading.Thread(target=other)
        thread.start()
        here = all(case.holds() for case in products * 2)
        thread.join()
        assert here and all(case.holds() for case in products)
    assert got == [0] and right == [True]
    assert native.begin_helpers(2) > 0, "they are free again"
    native.end_helpers()


def test_a_forked_process_starts_its_helpers(native: Kernels, products: list[Case]) -> None:
    with gemv_helpers(2):
        child = os.fork()
        if not child:
            right = native.begin_helpers(2) > 0 and all(case.holds() for case in products)
            native.end_helpers()
            os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
