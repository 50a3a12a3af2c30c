"""The loss of the decoder's answers over rows with image and audio embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vita.model.decoder import Decoder
from vita.prompt.template import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER
from vita.train.packing import IGNORE, RowBatch, segment_mask


def embed_rows(decoder: Decoder, rows: RowBatch, images: Tensor | None, audio: Tensor | None = None) -> Tensor:
    """Embeddings of the rows with the placeholders replaced: `[sequences, n, H]`.

    Args:
        decoder: whose embedding table it is.
        rows: with one placeholder for each embedding row.
        images: `[..., H]`, embedding rows of the images in order.
        audio: `[..., H]`, the same for audio.
    """
    embeds = decoder.embed(rows.ids.clamp(min=0))
    for placeholder, media in ((IMAGE_PLACEHOLDER, images), (AUDIO_PLACEHOLDER, audio)):
        if media is not None:
            embeds = embeds.masked_scatter((rows.ids == placeholder)[..., None], media.to(embeds.dtype))
    return embeds


def answer_loss(
    decoder: Decoder, rows: RowBatch, images: Tensor | None, audio: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of the taught tokens, and the share of them that is predicted; both scalars.

    Arguments as for `embed_rows`.
    """
    embeds = embed_rows(decoder, rows, images, audio)
    hidden = decoder(embeds, None, rows.position, segment_mask(rows.segment, rows.row))  # [sequences, n, H]
    taught = rows.target != IGNORE
    logits = decoder.logits(hidden[taught])
    return weighted_cross_entropy(logits, rows.target[taught], rows.weight[taught])


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the share predicted of `[tokens, vocab]` logits; tokens of weight 0 count in neither."""
    each = functional.cross_entropy(logits.float(), target, reduction="none", ignore_index=IGNORE)
    taught = (weight > 0).float()
    right = ((logits.argmax(-1) == target).float() * taught).sum() / taught.sum().clamp(min=1)
    return (each * weight).sum() / weight.sum().clamp(min=1e-9), right.detach()


def grouped_answer_loss(
    decoder: Decoder, groups: Sequence[RowBatch], images: Tensor, audio: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`answer_loss` over groups that are padded each for itself, as if they were one batch.

    Args:
        decoder: as in `answer_loss`.
        groups: of rows.
        images: `[image rows, H]` or `[tiles, rows of one, H]`, those of all groups in order.
        audio: `[audio rows, H]`.
    """
    flat = images.reshape(-1, images.shape[-1])
    seen = [int((rows.ids == IMAGE_PLACEHOLDER).sum()) for rows in groups]
    heard = [int((rows.ids == AUDIO_PLACEHOLDER).sum()) for rows in groups]
    parts: Sequence[Tensor | None] = [None] * len(groups) if audio is None else audio.split(heard)
    losses, rights, weights = [], [], []
    for rows, mine, audio_rows in zip(groups, flat.split(seen), parts, strict=True):
        loss, right = answer_loss(decoder, rows, mine, audio_rows)
        losses.append(loss)
        rights.append(right)
        weights.append(rows.weight.sum())
    weight = torch.stack(weights)
    weight = weight / weight.sum()
    return (torch.stack(losses) * weight).sum(), (torch.stack(rights) * weight).sum()
