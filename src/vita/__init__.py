"""VITA-1.5: pictures, video and speech in, text out.

    import vita
    model = vita.load()
    print(model.ask("What does the logo say?", images=["logo.png"]).text)

Names are imported when first used, so that `import vita` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vita.api import Chat, Vita, load
    from vita.errors import VitaError
    from vita.types import (
        Audio,
        Done,
        Image,
        MediaOptions,
        Message,
        Result,
        SamplingParams,
        Text,
        TextDelta,
        Video,
        assistant,
        system,
        user,
    )

__version__ = "0.1.0"
__all__ = [
    "Audio",
    "Chat",
    "Done",
    "Image",
    "MediaOptions",
    "Message",
    "Result",
    "SamplingParams",
    "Text",
    "TextDelta",
    "Video",
    "Vita",
    "VitaError",
    "assistant",
    "load",
    "system",
    "user",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vita' has no attribute {name!r}")
    home = {"load": "vita.api", "Vita": "vita.api", "Chat": "vita.api", "VitaError": "vita.errors"}
    from vita.collector import paused

    with paused():
        return getattr(import_module(home.get(name, "vita.types")), name)
