"""Token sequences for training: rows of a prefix and segments, padded or packed.

A row is a prefix (system text, media) and segments that attend to the prefix and to themselves, not to each other, so
that several questions about one image cost its media rows once. The positions of each segment start again after the
prefix: a segment computes what it would compute alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

IGNORE = -100
GROUP_SIZE = 4  # rows of similar length that are padded to the longest of them
PADDING = -1  # segment of padding


@dataclass(frozen=True)
class Segment:
    """What follows the prefix, and how much each token of it is taught.

    Attributes:
        ids: token ids, media placeholders once for every embedding row.
        weights: factor on the loss of each token; 0 for context.
    """

    ids: Sequence[int]
    weights: Sequence[float]


@dataclass(frozen=True)
class Row:
    """One sequence with media placeholders once for every embedding row."""

    ids: np.ndarray  # int64 [n]
    segment: np.ndarray  # int64 [n]: 0 for the prefix
    position: np.ndarray  # int64 [n]
    taught: np.ndarray  # float32 [n]: weight of the tokens that the model must say, 0 of the others


@dataclass(frozen=True)
class RowBatch:
    """Sequences of one length; padding is segment -1.

    Attributes:
        ids: int64 `[sequences, n]`.
        segment: int64 `[sequences, n]`.
        position: int64 `[sequences, n]`.
        target: int64 `[sequences, n]`, the next token where it is taught, else IGNORE.
        weight: float32 `[sequences, n]`, of the target.
        row: int64 `[sequences, n]`, which row each token belongs to, if a sequence holds several.
    """

    ids: Tensor
    segment: Tensor
    position: Tensor
    target: Tensor
    weight: Tensor
    row: Tensor | None = None

    def to(self, device: torch.device) -> RowBatch:
        """The same on another device."""
        return RowBatch(
            self.ids.to(device),
            self.segment.to(device),
            self.position.to(device),
            self.target.to(device),
            self.weight.to(device),
            None if self.row is None else self.row.to(device),
        )


def lay_out(prefix: Sequence[int], segments: Sequence[Segment]) -> Row:
    """One row: the prefix, then the segments, numbered from 1."""
    start = len(prefix)
    ids, segment, position, taught = list(prefix), [0] * start, list(range(start)), [0.0] * start
    for number, part in enumerate(segments, start=1):
        if len(part.ids) != len(part.weights):
            raise ValueError(f"segment {number} has {len(part.ids)} ids and {len(part.weights)} weights")
        ids += part.ids
        taught += part.weights
        segment += [number] * len(part.ids)
        position += range(start, start + len(part.ids))
    return Row(np.array(ids), np.array(segment), np.array(position), np.array(taught, np.float32))


def collate_groups(rows: Sequence[Row], size: int = GROUP_SIZE) -> tuple[RowBatch, ...]:
    """Rows that are sorted by length, a few of similar length in one batch."""
    return tuple(collate(rows[k : k + size]) for k in range(0, len(rows), size))


def collate(rows: Sequence[Row]) -> RowBatch:
    """Rows padded on the right to the longest, with the next token as target."""
    return pack(rows, [[k] for k in range(len(rows))], max(len(row.ids) for row in rows), several=False)


def assign_rows(lengths: Sequence[int], sequences: int, length: int) -> list[list[int]]:
    """Row numbers for each of `sequences` sequences of `length` tokens, each row in the first one with space.

    Raises:
        ValueError: a row has no space left.
    """
    chosen: list[list[int]] = [[] for _ in range(sequences)]
    free = [length] * sequences
    for number, needed in enumerate(lengths):
        at = next((k for k, space in enumerate(free) if space >= needed), None)
        if at is None:
            raise ValueError(f"row {number} of {needed} tokens has no space in {sequences} sequences of {length}")
        chosen[at].append(number)
        free[at] -= needed
    return chosen


def pack(rows: Sequence[Row], chosen: Sequence[Sequence[int]], length: int, *, several: bool = True) -> RowBatch:
    """Sequences of `length` tokens from the rows named by number.

    Args:
        rows: to be packed.
        chosen: row numbers of each sequence.
        length: of every sequence.
        several: whether a sequence may hold several rows; the batch then says which row a token belongs to.
    """
    shape = (len(chosen), length)
    ids, position = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segment, row_of = np.full(shape, PADDING, np.int64), np.full(shape, PADDING, np.int64)
    target, weight = np.full(shape, IGNORE, np.int64), np.zeros(shape, np.float32)
    for line, numbers in enumerate(chosen):
        at = 0
        for number in numbers:
            row = rows[number]
            here = slice(at, at + len(row.ids))
            ids[line, here], segment[line, here], position[line, here] = row.ids, row.segment, row.position
            row_of[line, here] = number
            # Every taught token follows one of its own segment, so the target is simply the next id.
            next_one = slice(at, at + len(row.ids) - 1)
            target[line, next_one] = np.where(row.taught[1:] > 0, row.ids[1:], IGNORE)
            weight[line, next_one] = row.taught[1:]
            at += len(row.ids)
    return RowBatch(
        torch.from_numpy(ids),
        torch.from_numpy(segment),
        torch.from_numpy(position),
        torch.from_numpy(target),
        torch.from_numpy(weight),
        torch.from_numpy(row_of) if several else None,
    )


def segment_mask(segment: Tensor, row: Tensor | None = None) -> Tensor:
    """Keys that each token attends to: bool `[sequences, 1, n, n]` from segments `[sequences, n]`.

    Earlier tokens of its own segment and of its row's prefix; padding attends to itself, so that no query is without
    keys.

    Args:
        segment: of each token.
        row: of each token, if a sequence holds several rows.
    """
    n = segment.shape[1]
    order = torch.arange(n, device=segment.device)
    earlier = order[None, :] <= order[:, None]
    same = segment[:, :, None] == segment[:, None, :]
    prefix = (segment == 0)[:, None, :]
    seen = same | prefix
    if row is not None:
        seen = seen & (row[:, :, None] == row[:, None, :])
    return (seen & earlier)[:, None]
