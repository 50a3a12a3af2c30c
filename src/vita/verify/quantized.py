"""Compare a quantised decoder with the unquantised one: KL divergence, top-1, perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vita.model.decoder import Decoder
from vita.verify.rows import NEAR_TIE, Row

KL_TOLERANCE = 0.02  # nats, mean over the positions
TOP1_TOLERANCE = 0.02  # fraction of positions whose most likely token changes, near ties left out
PERPLEXITY_TOLERANCE = 0.05  # relative change


def compare_quantized(
    name: str, plain: Decoder, quantized: Decoder, fused: Tensor, ids: Sequence[int]
) -> Iterator[Row]:
    """Compare the logits at every position of a case.

    Args:
        name: of the case.
        plain, quantized: the two decoders.
        fused: prompt embeddings `[length, H]`.
        ids: of the prompt. Its perplexity is compared if it has no placeholders.
    """
    before, after = (d.logits(d(fused[None]))[0].float().log_softmax(-1) for d in (plain, quantized))  # [length, V]
    divergence = functional.kl_div(after, before, reduction="none", log_target=True).sum(-1)
    yield Row("logit KL", name, float(divergence.mean()), KL_TOLERANCE, f"mean of {len(fused)} positions, nats")
    best = before.topk(2, -1).values  # [length, 2]
    clear = best[:, 0] - best[:, 1] >= NEAR_TIE
    changed = before.argmax(-1) != after.argmax(-1)
    share = float((changed & clear).float().mean())
    note = f"share of {len(fused)} positions; near ties left out, with them {100 * float(changed.float().mean()):.1f} %"
    yield Row("top-1 changed", name, share, TOP1_TOLERANCE, note)
    if len(ids) == len(fused) and min(ids) >= 0:
        target = torch.tensor(ids[1:], device=fused.device)
        loss = [float(functional.nll_loss(logs[:-1], target)) for logs in (before, after)]
        change = math.expm1(loss[1] - loss[0])
        yield Row("perplexity change", name, abs(change), PERPLEXITY_TOLERANCE, f"{100 * change:+.3f} %")
