"""Measure the machine's peak rates: memory read, matrix-vector and GEMM, at the released decoder's sizes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

HIDDEN_SIZE, INTERMEDIATE_SIZE = 3584, 18944  # of the released decoder's largest weight
COLD_BYTES = 1 << 30  # of weights, read one after the other, so that none is in a cache
GEMM_ROWS, GPU_GEMM_ROWS = 1024, 4096


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
    """Peak rates: `read` and `matvec` in GB/s, `gemm` in TFLOP/s, in a model's dtype.

    On a GPU `read` is the fastest of a sum, a copy (bytes read and written) and matrix-vector: no single kernel of
    PyTorch reaches the bandwidth in every release.
    """
    cuda = device.type == "cuda"
    count = max(2, COLD_BYTES // (HIDDEN_SIZE * INTERMEDIATE_SIZE * dtype.itemsize))
    shape = (INTERMEDIATE_SIZE, HIDDEN_SIZE)
    weights = [torch.full(shape, 0.01, dtype=dtype, device=device) for _ in range(count)]
    if cuda:  # constant values need less power, so a GPU multiplies them faster than real weights
        weights = [weight.normal_() for weight in weights]
    row = torch.full((1, HIDDEN_SIZE), 0.5, dtype=dtype, device=device)
    read = sum(w.nbytes for w in weights)
    matvec = best_seconds(lambda: [row @ w.t() for w in weights], device)
    # Sum the same bytes reinterpreted as float32, where the sum is limited by memory alone.
    plain = best_seconds(lambda: [w.view(torch.float32).sum() for w in weights], device)
    rates = {"sum": read / plain / 1e9, "matvec": read / matvec / 1e9}
    if cuda:
        pairs = list(zip(weights[::2], weights[1::2], strict=False))
        moved = sum(2 * source.nbytes for _, source in pairs)
        rates["copy"] = moved / best_seconds(lambda: [target.copy_(source) for target, source in pairs], device) / 1e9
    gemm = 0.0
    for count_rows in (GEMM_ROWS, GPU_GEMM_ROWS) if cuda else (GEMM_ROWS,):
        rows = torch.full((count_rows, HIDDEN_SIZE), 0.5, dtype=dtype, device=device)
        rows = rows.normal_() if cuda else rows
        seconds = best_seconds(lambda rows=rows: rows @ weights[0].t(), device)  # type: ignore[misc]
        gemm = max(gemm, 2 * count_rows * HIDDEN_SIZE * INTERMEDIATE_SIZE / seconds / 1e12)
    return {"read": bandwidth(rates, device), "matvec": rates["matvec"], "gemm": gemm}


def bandwidth(rates: dict[str, float], device: torch.device) -> float:
    """The peak rate that others are compared with: on a GPU the fastest kernel's, on a CPU that of the sum."""
    return rates["sum"] if device.type == "cpu" else max(rates.values())
