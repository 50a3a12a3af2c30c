"""Recipes: how checkpoints of this repository are made."""
