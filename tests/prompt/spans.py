"""Media of a turn without content, for tests of prompts."""

from __future__ import annotations

from typing import Literal

from vita.prompt.template import Media
from vita.types import MediaSpan


def media(kind: Literal["image", "video", "audio"], count: int = 1) -> Media:
    """An image, a video or an audio clip of so many tiles or frames, of one row each."""
    span = MediaSpan("audio" if kind == "audio" else "image", b"", 1)
    return Media(kind, (span,) * count)
