"""Fuse encoder rows into token embeddings (spec section 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from vita.types import MediaSpan, Span, TextSpan


def fuse(spans: Sequence[Span], embed_tokens: Callable[[Tensor], Tensor], features: Mapping[bytes, Tensor]) -> Tensor:
    """The embedding rows of a prompt, or of a stretch of it.

    Args:
        spans: the prompt.
        embed_tokens: int64 `[n]` on the CPU to rows `[n, H]` on the decoder's device (`Decoder.embed_tokens`).
        features: by digest, what the encoder made of a `MediaSpan`: `[span.rows, H]`.

    Returns:
        `[length, H]` in the dtype of the embeddings.

    Raises:
        ValueError: an encoder made another number of rows than the span takes.
    """
    ids = [token for span in spans if isinstance(span, TextSpan) for token in span.ids]
    text = embed_tokens(torch.tensor(ids, dtype=torch.int64))  # [text positions, H]
    pieces: list[Tensor] = []
    at = 0
    for span in spans:
        if isinstance(span, TextSpan):
            pieces.append(text[at : at + span.rows])
            at += span.rows
            continue
        rows = features[span.digest]
        if len(rows) != span.rows:
            raise ValueError(f"the {span.kind} encoder made {len(rows)} rows where {span.rows} are expected")
        pieces.append(rows.to(text.device, text.dtype))
    return torch.cat(pieces) if pieces else text


def visual_positions(spans: Sequence[Span], stride: int) -> Tensor:
    """Positions where runs of visual tokens advance slower (`shared_v_pid_stride`, spec section 7).

    Args:
        spans: the prompt.
        stride: s; inside a maximal run of image rows positions advance by 1/s a row.

    Returns:
        int64 `[1, length]`.
    """
    advances: list[float] = []
    run = 0

    def close_run() -> None:
        nonlocal run
        steps, rest = divmod(run, stride)
        advances.extend([1.0 / stride] * (steps * stride) + [1.0 / rest] * rest if rest else [1.0 / stride] * run)
        run = 0

    for span in spans:
        if isinstance(span, MediaSpan) and span.kind == "image":
            run += span.rows
            continue
        close_run()
        advances.extend([1.0] * span.rows)
    close_run()
    total = torch.tensor(advances, dtype=torch.float64).cumsum(0)
    # A sum of fractions that reaches an integer must not be pushed above it by rounding.
    return (torch.ceil(total - 1e-6) - 1).long()[None]
