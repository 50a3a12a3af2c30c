"""Voices of optional packages, each found by its entry point. No other module imports them."""
