"""The convolution of the speech codec in float32 as one call.

A program of its own: a model without a speech checkpoint does not wait for it to compile.
"""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vita.kernels.cpu.block_table import address
from vita.kernels.cpu.compile import Program, load_library, open_library
from vita.kernels.cpu.signatures import CONV_SIGNATURES, bind

log = logging.getLogger("vita")
_HERE = Path(__file__).parent
CONV_PROGRAM = Program((_HERE / "conv_f32.c",), (_HERE / "vectors_f32.h",))


class ConvKernel:
    """The compiled function on CPU tensors.

    Args:
        library: compiled from `CONV_PROGRAM`; its functions are declared here.

    Raises:
        InterfaceError: a function is missing.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        bind(library, CONV_SIGNATURES)
        self._library = library
        self._channels: int = library.vita_conv_f32_channels()

    def supports(self, x: Tensor, weight: Tensor) -> bool:
        """Whether `push` takes them: both contiguous, and a number of output channels that fills its vectors."""
        return not weight.shape[2] % self._channels and x.is_contiguous() and weight.is_contiguous()

    def push(
        self, x: Tensor, weight: Tensor, bias: Tensor, tail: Tensor, *, kept: int, zeros: int, dilation: int,
        slope: float,
    ) -> Tensor:  # fmt: skip
        """Feed rows to a stream of a dilated convolution, whose values under zero are multiplied by `slope` first.

        Args:
            x: float32 `[n, in]`.
            weight: float32 `[taps, in, out]`.
            bias: float32 `[out]`.
            tail: float32 `[(taps - 1) * dilation, in]`, of which the first `kept` rows come before x. Overwritten by
                the last rows, as many as there are and fit.
            kept: see `tail`.
            zeros: rows of zeros that come after x.
            dilation: rows from one tap to the next.
            slope: of the leaky ReLU.

        Returns:
            `[max(0, kept + n + zeros - (taps - 1) * dilation), out]`. A row is bit-identical however the rows are cut.
        """
        (taps, n_in, n_out), n = weight.shape, len(x)
        total = kept + n + zeros
        out, workspace = x.new_empty(max(0, total - len(tail)), n_out), x.new_empty(total, n_in)
        self._library.vita_conv_stream_f32(
            address(x), address(weight), address(bias), address(tail), address(out), address(workspace),
            n, kept, zeros, n_in, n_out, taps, dilation, slope,
        )  # fmt: skip
        return out


def conv_kernel(x: Tensor, weight: Tensor) -> ConvKernel | None:
    """The kernel, if both are float32 on a CPU and gradients are off."""
    usable = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_grad_enabled()
    return load_conv_kernel() if usable else None


@lru_cache(maxsize=1)
def load_conv_kernel() -> ConvKernel | None:
    """The kernel, compiled if this machine has not yet; None, logged, where that fails. Once per process."""
    kernel, found = open_library(load_library(CONV_PROGRAM), ConvKernel)
    log.info("kernel of the codec: %s", found.reason)
    return kernel
