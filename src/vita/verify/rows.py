"""One line of the report: a stage, its largest difference, the tolerance, and whether it passes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOAT32_MARK = 1e-4
FLOAT16_MARK = 0.1
BFLOAT16_MARK = 0.4  # three bits fewer than float16
FILTERBANK_MARK = 5e-3
AUDIBLE = 18.0  # nats below a frame's loudest band; fainter bands are rounding noise that differs between CPUs


@dataclass(frozen=True)
class Row:
    """A stage held against its reference.

    `difference` is the largest absolute one, or the count of unequal items for exact rows; None: not compared.
    """

    stage: str
    case: str
    difference: float | None
    tolerance: float
    note: str = ""

    @property
    def status(self) -> str:
        """ "pass", "fail", or "skipped" (the reference file is absent)."""
        if self.difference is None:
            return "skipped"
        return "pass" if self.difference <= self.tolerance else "fail"


class Reference:
    """The files of one set, and the mark that the working dtype is held to."""

    def __init__(self, folder: Path, dtype: torch.dtype, *, quantized: bool = False) -> None:
        self.folder = folder
        exact = dtype == torch.float32 and not quantized
        half = BFLOAT16_MARK if dtype == torch.bfloat16 or quantized else FLOAT16_MARK
        self.mark = FLOAT32_MARK if exact else half
        self.near_tie = 0.0 if exact else half / 2  # logits may be off by as much as the mark

    def array(self, name: str) -> Tensor | None:
        """`model/NAME.npy`, or None if the set has no such stage."""
        file = self.folder / "model" / f"{name}.npy"
        return torch.from_numpy(np.load(file, allow_pickle=False)) if file.is_file() else None

    def compare(self, stage: str, case: str, name: str, ours: Tensor, mark: float | None = None) -> Row:
        """A row for one tensor; shapes must agree up to leading axes of size 1."""
        theirs = self.array(name)
        tolerance = self.mark if mark is None else mark
        if theirs is None:
            return Row(stage, case, None, tolerance, f"{name}.npy is absent")
        return compare(stage, case, ours, theirs, tolerance)


def compare(stage: str, case: str, ours: Tensor, theirs: Tensor, tolerance: float) -> Row:
    """The largest absolute difference of two tensors."""
    ours, theirs = ours.detach().cpu().double().squeeze(), theirs.double().squeeze()
    if ours.shape != theirs.shape:
        return Row(stage, case, float("inf"), tolerance, f"shape {list(ours.shape)}, not {list(theirs.shape)}")
    difference = float((ours - theirs).abs().max()) if ours.numel() else 0.0
    return Row(stage, case, difference if difference == difference else float("inf"), tolerance)


def count_unequal(stage: str, case: str, ours: Sequence[Any], theirs: Sequence[Any]) -> Row:
    """How many items of two lists differ; zero is demanded."""
    unequal = sum(1 for a, b in zip(ours, theirs, strict=False) if a != b) + abs(len(ours) - len(theirs))
    return Row(stage, case, float(unequal), 0.0, f"{len(theirs)} compared")


def compare_ids(case: str, how: str, ours: Sequence[int], reference: dict[str, Any], near_tie: float) -> Row:
    """Greedy ids; in half precision the comparison ends at the first near tie that goes the other way.

    Args:
        near_tie: another id proves nothing where the reference's margin between first and second is smaller.
    """
    theirs = reference["greedy_ids"]
    margins = reference.get("greedy_top1_top2_margin", [1.0] * len(theirs))
    for at, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            if margins[at] < near_tie:
                return Row(f"greedy ids, {how}", case, 0.0, 0.0, f"{at} equal, then a near tie")
            break
    return count_unequal(f"greedy ids, {how}", case, ours, theirs)


def compare_bytes(stage: str, case: str, pixels: Tensor, sha256: str | None) -> Row:
    """Byte equality of a float32 tensor, by its hash."""
    if sha256 is None:
        return Row(stage, case, None, 0.0, "no hash in the set")
    ours = hashlib.sha256(np.ascontiguousarray(pixels.numpy()).tobytes()).hexdigest()
    return Row(stage, case, 0.0 if ours == sha256 else 1.0, 0.0, "sha256")


def compare_filterbank(case: str, ours: Tensor, theirs: Tensor) -> Row:
    """Bands within 18 nats of their frame's loudest; the rounding of fainter ones depends on the CPU's FFT."""
    if ours.shape != theirs.shape:
        return compare("filterbank", case, ours, theirs, FILTERBANK_MARK)
    if torch.equal(ours, theirs):
        return Row("filterbank", case, 0.0, FILTERBANK_MARK, "bit for bit")
    audible = theirs >= theirs.amax(dim=-1, keepdim=True) - AUDIBLE
    difference = float((ours - theirs).abs()[audible].max())
    return Row("filterbank", case, difference, FILTERBANK_MARK, "audible bands; the encoder gets the reference's")
