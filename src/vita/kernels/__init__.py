"""Native kernels for CPUs (C, compiled on this machine) and CUDA (Triton), with PyTorch operations as fallback."""
