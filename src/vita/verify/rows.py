"""Rows of the verification report: compare a stage with its reference, within a tolerance."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOAT32_TOLERANCE = 1e-4
NEAR_TIE = 0.2  # top-1 margin of logits that bfloat16 or quantising can reverse
# Largest absolute difference, and the top-1 margin that it can reverse; bfloat16 has three mantissa bits fewer.
TOLERANCES = {torch.float16: (0.1, 0.05), torch.bfloat16: (0.4, NEAR_TIE)}
# Of a quantised model: largest difference over the reference's RMS. With random weights exact arithmetic on int8
# weights reaches 0.26 (docs/benchmarks.md).
QUANTIZED_TOLERANCE = 0.3
FILTERBANK_TOLERANCE = 5e-3
AUDIBLE = 18.0  # nats below a frame's loudest band; fainter bands hold rounding errors that differ between CPUs


@dataclass(frozen=True)
class Row:
    """The comparison of one stage.

    Attributes:
        stage, case: what was compared.
        difference: the largest absolute difference (for a quantised model as a share of the reference's RMS), or the
            number of unequal items; None: not compared.
        tolerance: the largest difference that passes.
        note: for users.
    """

    stage: str
    case: str
    difference: float | None
    tolerance: float
    note: str = ""

    @property
    def status(self) -> str:
        """ "pass", "fail", or "skipped" if the reference file is absent."""
        if self.difference is None:
            return "skipped"
        return "pass" if self.difference <= self.tolerance else "fail"


class Reference:
    """The reference arrays of one set, and the tolerances.

    Differences of a quantised model are divided by the stage's RMS, since a format's error grows with the values: the
    RMS of logits is three times that of the encoders' outputs, and so is the error.

    Args:
        folder: of the set.
        dtype: that the model computes in.
        quantized: the model is quantised.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, *, quantized: bool = False) -> None:
        self.folder = folder
        self.quantized = quantized
        if quantized:
            self.tolerance, self.near_tie = QUANTIZED_TOLERANCE, NEAR_TIE
        else:
            self.tolerance, self.near_tie = TOLERANCES.get(dtype, (FLOAT32_TOLERANCE, 0.0))

    def array(self, name: str) -> Tensor | None:
        """`model/NAME.npy`, or None if the set has no such stage."""
        file = self.folder / "model" / f"{name}.npy"
        return torch.from_numpy(np.load(file, allow_pickle=False)) if file.is_file() else None

    def compare(self, stage: str, case: str, name: str, ours: Tensor, tolerance: float | None = None) -> Row:
        """Compare a tensor with `model/NAME.npy`; shapes must agree but for dimensions of size 1.

        Args:
            stage, case: names of the row.
            name: of the array.
            ours: tensor.
            tolerance: largest absolute difference; None: the tolerance of the model's format.
        """
        theirs = self.array(name)
        relative = self.quantized and tolerance is None
        tolerance = self.tolerance if tolerance is None else tolerance
        if theirs is None:
            return Row(stage, case, None, tolerance, f"{name}.npy is absent")
        return (compare_relative if relative else compare)(stage, case, ours, theirs, tolerance)


def compare(stage: str, case: str, ours: Tensor, theirs: Tensor, tolerance: float) -> Row:
    """Compare two tensors by their largest absolute difference; infinite for another shape, or NaN."""
    ours, theirs = ours.detach().cpu().double().squeeze(), theirs.double().squeeze()
    if ours.shape != theirs.shape:
        return Row(stage, case, float("inf"), tolerance, f"shape {list(ours.shape)}, not {list(theirs.shape)}")
    difference = float((ours - theirs).abs().max()) if ours.numel() else 0.0
    return Row(stage, case, difference if difference == difference else float("inf"), tolerance)


def compare_relative(stage: str, case: str, ours: Tensor, theirs: Tensor, tolerance: float) -> Row:
    """Compare two tensors by their largest absolute difference over the RMS of `theirs`."""
    row = compare(stage, case, ours, theirs, tolerance)
    if row.difference in (None, 0.0, float("inf")):
        return row
    share = float(row.difference / theirs.double().square().mean().sqrt())
    return Row(stage, case, share, tolerance, f"share of the RMS; absolute {row.difference:.3g}")


def count_unequal(stage: str, case: str, ours: Sequence[Any], theirs: Sequence[Any]) -> Row:
    """Compare two lists by the number of unequal items; the tolerance is 0."""
    unequal = sum(1 for a, b in zip(ours, theirs, strict=False) if a != b) + abs(len(ours) - len(theirs))
    return Row(stage, case, float(unequal), 0.0, f"{len(theirs)} compared")


def compare_ids(case: str, how: str, ours: Sequence[int], reference: dict[str, Any], near_tie: float) -> Row:
    """Compare greedy ids; in half precision only up to the first difference at a near tie.

    Args:
        case: name of the case.
        how: of the decoding, for the row's name.
        ours: ids.
        reference: with `greedy_ids` and, if known, `greedy_top1_top2_margin`.
        near_tie: a difference counts only where the reference's top-1 margin is at least this.
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
    """Compare the bytes of a float32 tensor with a SHA-256."""
    if sha256 is None:
        return Row(stage, case, None, 0.0, "no hash in the set")
    ours = hashlib.sha256(np.ascontiguousarray(pixels.numpy()).tobytes()).hexdigest()
    return Row(stage, case, 0.0 if ours == sha256 else 1.0, 0.0, "sha256")


def compare_filterbank(case: str, ours: Tensor, theirs: Tensor) -> Row:
    """Compare the bands within 18 nats of their frame's loudest; fainter ones depend on the CPU's rounding."""
    if ours.shape != theirs.shape:
        return compare("filterbank", case, ours, theirs, FILTERBANK_TOLERANCE)
    if torch.equal(ours, theirs):
        return Row("filterbank", case, 0.0, FILTERBANK_TOLERANCE, "bit for bit")
    audible = theirs >= theirs.amax(dim=-1, keepdim=True) - AUDIBLE
    difference = float((ours - theirs).abs()[audible].max())
    return Row("filterbank", case, difference, FILTERBANK_TOLERANCE, "audible bands; the encoder gets the reference's")
