"""Record launches as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def capture(run: Callable[[], None], pool: Any = None) -> torch.cuda.CUDAGraph:
    """Record what `run` launches, after running it once, which compiles its kernels.

    Args:
        run: without synchronisation or copies from the host.
        pool: memory that graphs share which never run at the same time and whose results are copied before the next one
            runs (`torch.cuda.graph_pool_handle`); None: memory of its own.
    """
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        run()  # kernels cannot be compiled while recording
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads may allocate GPU memory meanwhile, which must not invalidate the capture.
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            run()
    finally:
        torch.cuda.set_stream(current)  # a failed capture leaves its own stream current
    return graph
