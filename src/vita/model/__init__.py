"""Qwen2: blocks, static key/value cache, sampling, detokenising."""
