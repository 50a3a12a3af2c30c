"""Our own kernels, compiled on the machine that runs them; each has a slower equal in PyTorch's own operations."""
