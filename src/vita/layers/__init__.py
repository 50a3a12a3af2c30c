"""Layers shared by the encoders and the decoder: linear, norm, RoPE, attention, SwiGLU."""
