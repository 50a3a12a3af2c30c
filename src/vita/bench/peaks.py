"""Measure the machine's peak rates: memory read, matrix-vector and GEMM, at the released decoder's sizes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

HIDDEN_SIZE, INTERMEDIATE_SIZE = 3584, 18944  # of the released decoder's largest weight
COLD_BYTES = 1 << 30  # of weights, read one after the other, so that none is in a cache
GEMM_ROWS = 1024


def best_seconds(run: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Seconds of the fastest of some runs, synchronised, after one warm-up run."""
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
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@torch.inference_mode()
def measure_peaks(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Peak rates: `read` and `matvec` in GB/s, `gemm` in TFLOP/s, in a model's dtype."""
    count = max(2, COLD_BYTES // (HIDDEN_SIZE * INTERMEDIATE_SIZE * dtype.itemsize))
    shape = (INTERMEDIATE_SIZE, HIDDEN_SIZE)
    weights = [torch.full(shape, 0.01, dtype=dtype, device=device) for _ in range(count)]
    if device.type == "cuda":  # constant values need less power, so a GPU multiplies them faster than real weights
        weights = [weight.normal_() for weight in weights]
    row = torch.full((1, HIDDEN_SIZE), 0.5, dtype=dtype, device=device)
    read = sum(w.nbytes for w in weights)
    matvec = best_seconds(lambda: [row @ w.t() for w in weights], device)
    # Sum the same bytes reinterpreted as float32, where the sum is limited by memory alone.
    plain = best_seconds(lambda: [w.view(torch.float32).sum() for w in weights], device)
    rows = torch.full((GEMM_ROWS, HIDDEN_SIZE), 0.5, dtype=dtype, device=device)
    gemm = best_seconds(lambda: rows @ weights[0].t(), device)
    return {
        "read": read / plain / 1e9,
        "matvec": read / matvec / 1e9,
        "gemm": 2 * GEMM_ROWS * HIDDEN_SIZE * INTERMEDIATE_SIZE / gemm / 1e12,
    }
