"""From pixels and filterbanks to tokens of the decoder's width: InternViT, Whale and both adapters."""
