"""Native kernels, compiled on the machine that runs them. PyTorch operations replace each where it is missing."""
