"""Training: packing, losses, optimiser, schedule, checkpoints and the one loop."""
