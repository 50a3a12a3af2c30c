"""VITA-1.5: images, video and speech in, text and speech out.

    import vita
    model = vita.load()
    print(model.ask("What does the logo say?", image="logo.png").text)

Names are imported when first used, so that `import vita` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vita.api import Chat, Vita, load
    from vita.engine.handle import Handle
    from vita.engine.metrics import Stats
    from vita.engine.session import Session
    from vita.errors import (
        CheckpointError,
        DownloadError,
        MediaError,
        QueueFull,
        RequestError,
        ResourceError,
        SpeechError,
        VitaError,
    )
    from vita.events import (
        Done,
        Event,
        ReasoningDelta,
        Result,
        SpeechChunk,
        Started,
        TextDelta,
        Timings,
        TokenLogprob,
        Usage,
    )
    from vita.sources import Array, Bytes, FilePath, Url
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
        "CheckpointError", "DownloadError", "MediaError", "QueueFull", "RequestError", "ResourceError", "SpeechError",
        "VitaError",
    ),
    "vita.engine.handle": ("Handle",),
    "vita.engine.metrics": ("Stats",),
    "vita.engine.session": ("Session",),
    "vita.events": (
        "Done", "Event", "ReasoningDelta", "Result", "SpeechChunk", "Started", "TextDelta", "Timings", "TokenLogprob",
        "Usage",
    ),
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
    "ReasoningDelta",
    "RequestError",
    "ResourceError",
    "Result",
    "SamplingParams",
    "Session",
    "SpeechChunk",
    "SpeechError",
    "SpeechOptions",
    "Started",
    "Stats",
    "Text",
    "TextDelta",
    "Timings",
    "TokenLogprob",
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

if not TYPE_CHECKING:  # with it, mypy would take every misspelt name for a name of this module

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'vita' has no attribute {name!r}")
        from importlib import import_module

        from vita.runtime.process import gc_paused

        with gc_paused():
            value: object = getattr(import_module(_MODULE_OF[name]), name)
        globals()[name] = value  # found without this function from now on
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
