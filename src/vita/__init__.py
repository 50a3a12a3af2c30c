"""VITA-1.5: images, video and speech in, text out.

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
    from vita.engine.handle import Handle
    from vita.engine.session import Session
    from vita.errors import (
        CheckpointError,
        DownloadError,
        MediaError,
        QueueFull,
        RequestError,
        ResourceError,
        VitaError,
    )
    from vita.events import Done, Event, Result, SpeechChunk, Started, TextDelta, Timings, Usage
    from vita.types import (
        Audio,
        Image,
        MediaOptions,
        MediaPolicy,
        Message,
        SamplingParams,
        SpeechOptions,
        Text,
        Video,
        assistant,
        system,
        user,
    )

__version__ = "0.1.0"
_MODULES = {
    "vita.api": ("Chat", "Vita", "load"),
    "vita.errors": (
        "CheckpointError", "DownloadError", "MediaError", "QueueFull", "RequestError", "ResourceError", "VitaError",
    ),
    "vita.engine.handle": ("Handle",),
    "vita.engine.session": ("Session",),
    "vita.events": ("Done", "Event", "Result", "SpeechChunk", "Started", "TextDelta", "Timings", "Usage"),
    "vita.sources": ("Array", "Bytes", "FilePath", "Url"),
    "vita.types": (
        "Audio", "Image", "MediaOptions", "MediaPolicy", "Message", "SamplingParams", "SpeechOptions", "Text", "Video",
        "assistant", "system", "user",
    ),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "Array",
    "Audio",
    "Bytes",
    "Chat",
    "CheckpointError",
    "Done",
    "DownloadError",
    "Event",
    "FilePath",
    "Handle",
    "Image",
    "MediaError",
    "MediaOptions",
    "MediaPolicy",
    "Message",
    "QueueFull",
    "RequestError",
    "ResourceError",
    "Result",
    "SamplingParams",
    "Session",
    "SpeechChunk",
    "SpeechOptions",
    "Started",
    "Text",
    "TextDelta",
    "Timings",
    "Url",
    "Usage",
    "Video",
    "Vita",
    "VitaError",
    "assistant",
    "load",
    "system",
    "user",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'vita' has no attribute {name!r}")
    from vita.runtime.process import gc_paused

    with gc_paused():
        return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
