"""Quantised linear layers: schemes, formats, quantise and dequantise."""
