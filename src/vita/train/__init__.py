"""Training: packing, losses, optimiser, schedule, checkpoints and the one loop. Needs PyTorch and NumPy alone."""
