"""Splicing pictures and sound into the token embeddings (spec section 7).

One pure function. Does not know how ids were made, nor which encoder made the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vita.prompt.template import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER


def fuse(
    ids: Sequence[int], embedding: Tensor, images: Sequence[Tensor], audios: Sequence[Tensor],
    device: torch.device | None = None,
) -> Tensor:  # fmt: skip
    """One sequence of embedding rows.

    Args:
        ids: token ids, with -200 where a picture tile or frame goes and -500 where a sound goes.
        embedding: the decoder's table `[vocab, H]`, read by row where it lies.
        images: one `[tokens, H]` for every -200, in order.
        audios: one `[tokens, H]` for every -500, in order.
        device: where the media are and the rows go; default: where the table is.

    Returns:
        `[length, H]` in the table's dtype.

    Raises:
        ValueError: slots and media do not pair up.
    """
    waiting = {IMAGE_PLACEHOLDER: iter(images), AUDIO_PLACEHOLDER: iter(audios)}
    wanted = {IMAGE_PLACEHOLDER: len(images), AUDIO_PLACEHOLDER: len(audios)}
    for slot, count in wanted.items():
        found = sum(1 for i in ids if i == slot)
        if found != count:
            raise ValueError(f"{found} slots of kind {slot} for {count} media")
    where = device or embedding.device
    pieces: list[Tensor] = []
    run: list[int] = []

    def close_run() -> None:
        if run:
            pieces.append(embedding[torch.tensor(run, device=embedding.device)].to(where))
            run.clear()

    for token in ids:
        if token in waiting:
            close_run()
            pieces.append(next(waiting[token]).to(embedding.dtype))
        else:
            run.append(token)
    close_run()
    return torch.cat(pieces) if pieces else embedding[:0].to(where)


def visual_positions(ids: Sequence[int], lengths: Sequence[int], stride: int) -> Tensor:
    """Positions when runs of visual tokens advance slower (`shared_v_pid_stride`, spec section 7).

    Args:
        ids: token ids with slots.
        lengths: rows each slot takes, in the order of the slots (any kind).
        stride: s; inside a maximal run of visual tokens positions advance by 1/s a token.

    Returns:
        int64 `[1, length]`.
    """
    advances: list[float] = []
    run = 0
    queue = iter(lengths)

    def close_run() -> None:
        nonlocal run
        whole, rest = divmod(run, stride)
        advances.extend([1.0 / stride] * (whole * stride) + [1.0 / rest] * rest if rest else [1.0 / stride] * run)
        run = 0

    for token in ids:
        if token == IMAGE_PLACEHOLDER:
            run += next(queue)
            continue
        close_run()
        advances.extend([1.0] * (next(queue) if token == AUDIO_PLACEHOLDER else 1))
    close_run()
    total = torch.tensor(advances, dtype=torch.float64).cumsum(0)
    # A whole number reached by adding fractions must not be pushed up by rounding.
    return (torch.ceil(total - 1e-6) - 1).long()[None]
