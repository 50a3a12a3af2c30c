"""Whether this machine has a voice at all: eSpeak NG, or utterances that were rendered elsewhere."""

from __future__ import annotations

from recipes.nano.speech.baked import shelf
from recipes.nano.speech.espeak import MissingSpeechEngine, espeak


def engine_here() -> bool:
    """Whether any text can be said."""
    try:
        espeak()
    except MissingSpeechEngine:
        return False
    return True


def voices_here() -> bool:
    """Whether something can be said."""
    return engine_here() or shelf() is not None
