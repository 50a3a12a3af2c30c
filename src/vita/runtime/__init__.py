"""Facts about the machine and this process: device, memory, bandwidth, clock."""
