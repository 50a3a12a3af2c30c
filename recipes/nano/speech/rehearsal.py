"""Sounds heard once and rehearsed: the decoder alone learns to read off what the ears write down.

Owns the store of such rows. Does not know how a sound is drawn or heard. Of the sounds in a step few are words in an
order that cannot be guessed, and a step's time goes to eyes and ears; the decoder's own share of it is small, so
that it reads a dozen times as many sentences if nobody has to say and hear them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from random import Random

import torch
from torch import Tensor

from recipes.nano.model import Learner
from vita.prompt.template import AUDIO_PLACEHOLDER
from vita.train.losses import grouped_answer_loss
from vita.train.packing import RowBatch

ROW_GROUPS = 12  # in one batch, each of a few rows of like length
A_STEP = 2  # batches of all processes beside one of everything


class Rehearsal:
    """Rows without a picture, and what the decoder gets to hear in them."""

    def __init__(self) -> None:
        self.groups: list[tuple[RowBatch, Tensor]] = []

    def remember(self, rows: Sequence[RowBatch], heard: Tensor) -> None:
        """Rows as they were packed, and the decoder rows of their sounds in order, `[tokens, H]`."""
        tokens = [int((group.ids == AUDIO_PLACEHOLDER).sum()) for group in rows]
        # Copies: what a worker sent keeps a file open for as long as it lives.
        own = [copied(group) for group in rows]
        self.groups += zip(own, heard.detach().bfloat16().split(tokens), strict=True)

    def losses(self, model: Learner, dice: Random) -> tuple[Tensor, dict[str, Tensor]]:
        """Of some of them, drawn at random: only the decoder learns."""
        chosen = dice.sample(self.groups, min(ROW_GROUPS, len(self.groups)))
        seen = torch.zeros(0, model.size.decoder.hidden_size)
        heard = torch.cat([heard for _, heard in chosen]).float()
        loss, share = grouped_answer_loss(model.decoder, [rows for rows, _ in chosen], seen, heard)
        return loss, {"rehearsed": loss.detach(), "rehearsed token": share}


def copied(rows: RowBatch) -> RowBatch:
    """The same rows in memory of their own."""
    kept = {f.name: getattr(rows, f.name) for f in fields(RowBatch)}
    return RowBatch(**{name: value if value is None else value.clone() for name, value in kept.items()})
