"""What this machine can do at best: memory read, matrix-vector products, matrix products.

Owns the measurements, at the sizes the decoder has. Does not know about models.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

WIDE, TALL = 3584, 18944  # the released decoder's largest weight
COLD_BYTES = 1 << 30  # read in turns, so that no cache helps
GEMM_ROWS = 1024


def best_seconds(run: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The shortest of some runs, the device waited for; one run before them is not counted."""
    run()
    shortest = float("inf")
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@torch.inference_mode()
def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """`read` and `matvec` in GB/s, `gemm` in TFLOP/s of the working dtype."""
    count = max(2, COLD_BYTES // (WIDE * TALL * dtype.itemsize))
    weights = [torch.full((TALL, WIDE), 0.01, dtype=dtype, device=device) for _ in range(count)]
    if device.type == "cuda":  # a GPU multiplies equal numbers with less power, and so faster, than it will ours
        weights = [weight.normal_() for weight in weights]
    row = torch.full((1, WIDE), 0.5, dtype=dtype, device=device)
    read = sum(w.nbytes for w in weights)
    matvec = best_seconds(lambda: [row @ w.t() for w in weights], device)
    # The same bytes summed as float32, whatever they mean: the arithmetic costs nothing beside the read.
    plain = best_seconds(lambda: [w.view(torch.float32).sum() for w in weights], device)
    rows = torch.full((GEMM_ROWS, WIDE), 0.5, dtype=dtype, device=device)
    gemm = best_seconds(lambda: rows @ weights[0].t(), device)
    return {
        "read": read / plain / 1e9,
        "matvec": read / matvec / 1e9,
        "gemm": 2 * GEMM_ROWS * WIDE * TALL / gemm / 1e12,
    }
