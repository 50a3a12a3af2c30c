"""What a model needs of the machine: memory, weight residency, FLOPs."""
