"""Pinned host memory that CUDA kernels read over the bus."""

from __future__ import annotations

import contextlib
import weakref

import torch
from torch import Tensor

PORTABLE, MAPPED = 1, 2  # flags of cudaHostRegister: for every device, and mapped into the device's address space


class PinnedTensor:
    """A copy of a tensor in pinned host memory; kernels can read `values`.

    Not `Tensor.pin_memory`, which rounds sizes up to a power of two: 2 GiB for the 1.01 GiB of the released model's
    embedding table.

    Args:
        tensor: on the CPU.
        device: the CUDA device whose kernels read it.

    Raises:
        MemoryError: the memory cannot be allocated or pinned.
    """

    def __init__(self, tensor: Tensor, device: torch.device) -> None:
        try:
            self.values = tensor.clone(memory_format=torch.contiguous_format)
        except RuntimeError as error:  # what PyTorch raises when host memory is exhausted
            raise MemoryError(str(error)) from error
        address = self.values.data_ptr()
        status = torch.cuda.cudart().cudaHostRegister(address, self.values.nbytes, PORTABLE | MAPPED)
        if int(status) != 0:
            with contextlib.suppress(RuntimeError):  # clears CUDA's last error, which the next launch would report
                torch.zeros(1, device=device).add_(1)
            raise MemoryError(f"cudaHostRegister of {self.values.nbytes} bytes: error {int(status)}")
        weakref.finalize(self, _unpin, address, self.values, device).atexit = False


def _unpin(address: int, _values: Tensor, device: torch.device) -> None:
    """Unpin memory before it is freed: the `_values` argument keeps it alive until then."""
    torch.cuda.current_stream(device).synchronize()  # a queued step may still read it
    torch.cuda.cudart().cudaHostUnregister(address)
