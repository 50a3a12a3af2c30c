"""Tiles that are encoded next are copied while the present batch is encoded, with the same values."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine.fakes import FakeEngine, read, text
from torch import Tensor

from vita.config import ImagePreprocess
from vita.engine.tile_copies import BATCHES, DirectCopier, TileCopies, choose_tile_copies
from vita.events import Done
from vita.media.normalise import normalise
from vita.types import MediaSpan, SamplingParams

CPU, SIDE = torch.device("cpu"), 112
PREPROCESS = ImagePreprocess(size=SIDE, crop=SIDE)


def tile(code: int) -> MediaSpan:
    """An image tile of one shade, as the fake model reads it."""
    return MediaSpan("image", b"tile%d" % code, 4, (np.full((SIDE, SIDE, 3), code, np.uint8),))


def noise(code: int) -> MediaSpan:
    values = np.random.default_rng(code).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return MediaSpan("image", b"tile%d" % code, 4, (values,))


class Recorder(DirectCopier):
    """Copies whose pixels are there only once they were waited for, as on a stream of their own."""

    def __init__(self, log: list[tuple[str, object]]) -> None:
        super().__init__(CPU)
        self._log, self._number = log, 0

    def copy(self, pixels: Tensor) -> tuple[Tensor, Callable[[], None]]:
        self._number += 1
        number, copied = self._number, torch.zeros_like(pixels)
        self._log.append(("copy", (number, len(pixels))))

        def wait() -> None:
            self._log.append(("wait", number))
            copied.copy_(pixels)

        return copied, wait


def wanted(spans: list[MediaSpan]) -> Tensor:
    return normalise([span.data[0] for span in spans], PREPROCESS, CPU)


@pytest.mark.parametrize("copier", [DirectCopier(CPU), Recorder([])])
def test_values_are_those_of_the_cpu_whatever_was_copied_ahead(copier: DirectCopier) -> None:
    copies, spans = TileCopies(copier, PREPROCESS), [noise(k) for k in range(8)]
    assert torch.equal(copies.normalised(spans[:2]), wanted(spans[:2])), "nothing was copied ahead"
    copies.prefetch(spans[2:5])
    assert torch.equal(copies.normalised(spans[2:5]), wanted(spans[2:5])), "the whole batch was"
    copies.prefetch(spans[:3])
    copies.prefetch(spans[3:6])
    mixed = [spans[7], spans[4], spans[0]]
    assert torch.equal(copies.normalised(mixed), wanted(mixed)), "some of two batches, and one that was not"
    assert torch.equal(copies.normalised(spans), wanted(spans)), "a batch is gone once some of its tiles were read"


def test_a_tile_is_copied_once_and_two_batches_at_most_are_kept() -> None:
    log: list[tuple[str, object]] = []
    copies, spans = TileCopies(Recorder(log), PREPROCESS), [noise(k) for k in range(9)]
    copies.prefetch(spans[:3])
    copies.prefetch(spans[1:4])
    assert log == [("copy", (1, 3)), ("copy", (2, 1))]
    copies.prefetch(spans[4:6])
    assert len(copies._batches) == BATCHES
    copies.normalised(spans[3:6])
    assert log[2:] == [("copy", (3, 2)), ("wait", 2), ("wait", 3)] and not copies._batches


def test_what_cannot_be_copied_ahead_is_copied_when_it_is_encoded(caplog: pytest.LogCaptureFixture) -> None:
    class Full(DirectCopier):
        full = True

        def copy(self, pixels: Tensor) -> tuple[Tensor, Callable[[], None]]:
            if self.full:
                raise torch.OutOfMemoryError("out of pinned memory")
            return super().copy(pixels)

    copier = Full(CPU)
    copies, spans = TileCopies(copier, PREPROCESS), [noise(1)]
    with caplog.at_level("INFO", "vita"):
        copies.prefetch(spans)
    assert "out of pinned memory" in caplog.text
    with pytest.raises(torch.OutOfMemoryError):
        copies.normalised(spans)
    copier.full = False
    assert torch.equal(copies.normalised(spans), wanted(spans))


def test_the_next_batch_is_copied_between_the_layers_of_the_present_one(mini: Path) -> None:
    engine = FakeEngine(mini / "mini_ckpt", layers=4, tile_batch=3)
    log = engine.model.log
    engine.core.runner._tiles = TileCopies(Recorder(log), engine.model.config.image)
    requests = [
        engine.submit(text(k), *(tile(20 * k + n) for n in range(4)), text(6), params=SamplingParams(max_tokens=3))
        for k in range(2)
    ]
    engine.run()
    order = [(kind, *(value for _, value in group)) for kind, group in groupby(log, key=lambda entry: entry[0])]
    assert order[:9] == [
        ("copy", (1, 3)), ("wait", 1), ("layer", 1), ("copy", (2, 3)), ("layer", 1, 1, 1),
        ("wait", 2), ("layer", 2), ("copy", (3, 2)), ("layer", 2, 2, 2),
    ], "the copy of a batch begins behind the first layer of the batch before, which nothing waits for"  # fmt: skip
    assert [entry for entry in log if entry[0] in ("copy", "wait")][-1] == ("wait", 3)
    for request in requests:
        done = read(request)[-1]
        assert isinstance(done, Done) and done.token_ids == engine.expected(request).ids


def test_a_cpu_normalises_pixels_where_they_are() -> None:
    assert choose_tile_copies(CPU, PREPROCESS) is None
    assert choose_tile_copies(torch.device("meta"), PREPROCESS) is not None
