"""Host memory that kernels read over the bus.

Owns the locking of its pages, without which a GPU cannot reach them. Does not know what the memory holds.
"""

from __future__ import annotations

import contextlib
import weakref

import torch
from torch import Tensor

PORTABLE, MAPPED = 1, 2  # flags of cudaHostRegister: for every device, and readable by kernels


class PinnedTensor:
    """A copy of a tensor in the host's memory, locked there; `values` may be handed to kernels.

    Not `Tensor.pin_memory`, which takes memory in powers of two: 2 GiB for the 1.01 of the released embedding table.

    Args:
        tensor: on the CPU.
        device: whose kernels read it.

    Raises:
        MemoryError: the system does not let so much memory be locked.
    """

    def __init__(self, tensor: Tensor, device: torch.device) -> None:
        try:
            self.values = tensor.clone(memory_format=torch.contiguous_format)
        except RuntimeError as error:  # PyTorch's word for no memory
            raise MemoryError(str(error)) from error
        address = self.values.data_ptr()
        status = torch.cuda.cudart().cudaHostRegister(address, self.values.nbytes, PORTABLE | MAPPED)
        if int(status) != 0:
            with contextlib.suppress(RuntimeError):  # it stays CUDA's last error until a launch has reported it
                torch.zeros(1, device=device).add_(1)
            raise MemoryError(f"cudaHostRegister of {self.values.nbytes} bytes: error {int(status)}")
        weakref.finalize(self, _unlock, address, self.values, device).atexit = False


def _unlock(address: int, _values: Tensor, device: torch.device) -> None:
    """Before the memory is given back, which waits for this: the values are held until then."""
    torch.cuda.current_stream(device).synchronize()  # a step that was asked for may still read
    torch.cuda.cudart().cudaHostUnregister(address)
