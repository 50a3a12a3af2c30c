"""Benchmark the stages of a request against the machine's peak rates (`vita bench`)."""
