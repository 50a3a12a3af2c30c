"""Quantised linear layers: schemes, formats, quantisation and dequantisation."""
