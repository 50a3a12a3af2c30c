"""Layers that the encoders and the decoder share: linear, norm, attention. Owns no shapes of any model."""
