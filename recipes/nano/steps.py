"""The losses of a batch of pictures: the dense heads and the answers.

Owns how the parts of the model are joined in training. Does not know about time, files or phases.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.nano.feed import Batch
from recipes.nano.model import Learner
from recipes.nano.tiles import normalise
from vita.train.losses import grouped_answer_loss


def losses(
    model: Learner, batch: Batch, dense: float, device: torch.device, *, eyes: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch and what was measured on the way.

    Args:
        model: the learner.
        batch: what the feed drew.
        dense: factor on the loss of the dense heads.
        device: where the model is.
        eyes: whether vision and projector are to learn.
    """
    measured: dict[str, Tensor] = {}
    loss = torch.zeros((), device=device)
    with torch.set_grad_enabled(eyes and torch.is_grad_enabled()):
        patches = model.patches(normalise(batch.tiles.to(device)))
        seen = model.rows(patches[batch.shown.to(device)])
    if len(batch.labelled) and dense:
        part, right = model.dense_loss(patches[batch.labelled.to(device)], batch.labels.to(device))
        loss = loss + dense * part
        measured |= {"dense": part.detach(), **dict(zip(("char", "shape", "color", "place"), right, strict=True))}
    if batch.rows:
        part, share = grouped_answer_loss(model.decoder, [rows.to(device) for rows in batch.rows], seen)
        loss = loss + part
        measured |= {"answer": part.detach(), "token": share}
    return loss, measured
