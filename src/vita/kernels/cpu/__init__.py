"""CPU kernels in C, compiled on this machine and called through ctypes."""
