"""Kernels for CPUs, in C: compiled on the machine, called through ctypes."""
