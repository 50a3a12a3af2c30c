"""The model: vision and audio encoders, projectors, decoder and KV cache."""
