"""One training step: from a batch to losses, and the optimiser that follows.

Owns how the parts of the model are joined in training. Does not know about time, files or phases.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.nano.checkpoint import EARS
from recipes.nano.feed import Batch
from recipes.nano.model import Learner
from recipes.nano.pack import IGNORE, ROWS_PER_TILE, RowBatch, segment_mask
from recipes.nano.tiles import normalise
from vita.prompt.template import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER

CLIP = 1.0


def losses(
    model: Learner, batch: Batch, dense: float, device: torch.device, *, eyes: bool = True
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and what was measured on the way.

    Args:
        model: the learner.
        batch: what the feed drew.
        dense: factor on the loss of the dense heads.
        device: where the model is.
        eyes: whether vision and projector are to learn.
    """
    measured: dict[str, float] = {}
    loss = torch.zeros((), device=device)
    with torch.set_grad_enabled(eyes and torch.is_grad_enabled()):
        patches = model.patches(normalise(batch.tiles.to(device)))
        seen = model.rows(patches[batch.shown.to(device)])
    if len(batch.labelled) and dense:
        part, right = model.dense_loss(patches[batch.labelled.to(device)], batch.labels.to(device))
        loss = loss + dense * part
        measured |= {"dense": part.item(), **dict(zip(("char", "shape", "color", "place"), right, strict=True))}
    if batch.rows:
        part, share = answers_loss(model, [rows.to(device) for rows in batch.rows], seen)
        loss = loss + part
        measured |= {"answer": part.item(), "token": share}
    return loss, measured


def answers_loss(
    model: Learner, groups: Sequence[RowBatch], seen: Tensor, heard: Tensor | None = None
) -> tuple[Tensor, float]:
    """The loss over rows that are padded group by group, as if they were one batch; the rest as below."""
    images = [int((rows.ids == IMAGE_PLACEHOLDER).sum()) // ROWS_PER_TILE for rows in groups]
    sounds = [int((rows.ids == AUDIO_PLACEHOLDER).sum()) for rows in groups]
    said = [None] * len(groups) if heard is None else heard.split(sounds)
    parts = zip(groups, seen.split(images), said, strict=True)
    made = [(*answer_loss(model, rows, mine, sound), rows.weight.sum()) for rows, mine, sound in parts]
    total = torch.stack([weight for *_, weight in made]).sum()
    loss = torch.stack([part * weight for part, _, weight in made]).sum() / total
    return loss, sum(share * float(weight) for _, share, weight in made) / float(total)


def answer_loss(model: Learner, rows: RowBatch, seen: Tensor, heard: Tensor | None = None) -> tuple[Tensor, float]:
    """Weighted cross-entropy of the taught tokens, and the share of them right.

    Args:
        model: the learner.
        rows: padded rows.
        seen: `[tiles, 64, H]`, one for each tile of the rows in order.
        heard: `[tokens, H]`, the sounds of the rows in order.
    """
    embeds = model.decoder.embed(rows.ids.clamp(min=0))
    embeds = embeds.masked_scatter((rows.ids == IMAGE_PLACEHOLDER)[..., None], seen.to(embeds.dtype))
    if heard is not None:
        embeds = embeds.masked_scatter((rows.ids == AUDIO_PLACEHOLDER)[..., None], heard.to(embeds.dtype))
    hidden = model.decoder(embeds, None, rows.position, segment_mask(rows.segment))
    taught = rows.target != IGNORE
    logits = model.decoder.logits(hidden[taught])
    target = rows.target[taught]
    share = (logits.argmax(-1) == target).float().mean().item()
    weight = rows.weight[taught]
    each = functional.cross_entropy(logits.float(), target, reduction="none")
    return (each * weight).sum() / weight.sum(), share


def make_optimizer(model: Learner) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors do not; the audio part stays as it is."""
    named = [(n, p) for n, p in model.named_parameters() if not n.startswith(EARS)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(EARS))
    groups = [
        {"params": [p for _, p in named if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)


def half(device: torch.device) -> torch.autocast:
    """Products in bfloat16 (weights stay float32) where the device has instructions for it."""
    fast = device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def apply(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> float:
    """Backward, clip, step; returns the gradient's norm before clipping."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trained = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(trained, CLIP)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)
    optimizer.step()
    return float(norm)
