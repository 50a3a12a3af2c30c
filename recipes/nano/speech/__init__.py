"""Spoken questions, things not meant for the model, and noise, drawn by number."""

from recipes.nano.speech.sample import KINDS, Utterance, render_utterance

__all__ = ["KINDS", "Utterance", "render_utterance"]
