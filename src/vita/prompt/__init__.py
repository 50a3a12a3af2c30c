"""From messages to token ids with slots where media go (spec section 2)."""
