"""Forms of media that the Python API takes; mypy accepts every line, and `test_api` runs every call."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import vita

ASSETS = Path(__file__).parents[2] / "assets"
LOGO = ASSETS / "vita_logo.png"
CLIP = ASSETS / "moving.mp4"
VOICE = ASSETS / "what_can_you_do.flac"
Array = np.ndarray[Any, Any]


def logo() -> Image.Image:
    """The logo, decoded."""
    return Image.open(LOGO).convert("RGB")


def frames() -> list[Image.Image]:
    """Two images."""
    return [logo(), logo()]


def samples() -> Array:
    """A second of silence at 16 kHz."""
    return np.zeros(16000, np.float32)


# What stands for one image, in `ask(image=…)` and in `ask(images=…)`.
ONE_IMAGE: dict[str, Callable[[], vita.Message]] = {
    "str": lambda: vita.user("What?", image=str(LOGO), images=str(LOGO)),
    "path": lambda: vita.user("What?", image=LOGO, images=LOGO),
    "file URL": lambda: vita.user("What?", image=LOGO.as_uri(), images=LOGO.as_uri()),
    "data URL": lambda: vita.user("What?", image=data_url(), images=data_url()),
    "bytes": lambda: vita.user("What?", image=LOGO.read_bytes(), images=LOGO.read_bytes()),
    "bytearray": lambda: vita.user("What?", image=bytearray(LOGO.read_bytes()), images=memoryview(LOGO.read_bytes())),
    "open file": lambda: vita.user("What?", image=LOGO.open("rb"), images=io.BytesIO(LOGO.read_bytes())),
    "PIL image": lambda: vita.user("What?", image=logo(), images=logo()),
    "array": lambda: vita.user("What?", image=np.asarray(logo()), images=np.asarray(logo())),
    "Image": lambda: vita.user("What?", image=vita.Image(LOGO), images=vita.Image(LOGO)),
    "FilePath": lambda: vita.user("What?", image=vita.FilePath(LOGO), images=vita.FilePath(LOGO)),
    "Bytes": lambda: vita.user("What?", image=vita.Bytes(LOGO.read_bytes()), images=vita.Bytes(LOGO.read_bytes())),
    "Array": lambda: vita.user("What?", image=vita.Array(logo()), images=vita.Array(logo())),
}

# Several, two of each.
TWO: dict[str, Callable[[], vita.Message]] = {
    "list of str": lambda: vita.user("What?", images=[str(LOGO), str(LOGO)]),
    "tuple": lambda: vita.user("What?", images=(LOGO, logo())),
    "list of PIL images": lambda: vita.user("What?", images=frames()),
    "stack": lambda: vita.user("What?", images=np.stack([np.asarray(logo())] * 2)),
    "generator": lambda: vita.user("What?", images=(image for image in frames())),
    "glob": lambda: vita.user("What?", images=ASSETS.glob("*.png"), image=logo()),
    "mixed": lambda: vita.user("What?", images=[np.asarray(logo()), vita.Image(LOGO)]),
}

# One video, of two frames or more.
ONE_VIDEO: dict[str, Callable[[], vita.Message]] = {
    "path": lambda: vita.user("What?", video=CLIP),
    "str as videos": lambda: vita.user("What?", videos=str(CLIP)),
    "list of videos": lambda: vita.user("What?", videos=[CLIP]),
    "part": lambda: vita.user("What?", video=vita.Video(CLIP, fps=2, end=3)),
    "list of PIL images": lambda: vita.user("What?", video=frames()),
    "frames as a Video": lambda: vita.user("What?", videos=vita.Video(frames())),
    "list of paths": lambda: vita.user("What?", video=[LOGO, LOGO]),
    "list of arrays": lambda: vita.user("What?", video=[np.asarray(image) for image in frames()]),
    "stack": lambda: vita.user("What?", video=np.stack([np.asarray(logo())] * 2)),
    "list of frames": lambda: vita.user("What?", videos=[frames()]),
}

ONE_AUDIO: dict[str, Callable[[], vita.Message]] = {
    "path": lambda: vita.user(audio=VOICE),
    "str as audios": lambda: vita.user(audios=str(VOICE)),
    "list": lambda: vita.user("What?", audios=[VOICE.read_bytes()]),
    "samples": lambda: vita.user(audio=vita.Audio(samples(), 16000)),
    "samples as audios": lambda: vita.user("What?", audios=vita.Audio(samples(), sample_rate=16000)),
    "track": lambda: vita.user(audio=vita.Audio(VOICE, from_video=False)),
}


def data_url() -> str:
    """The logo as a data: URL."""
    return "data:image/png;base64," + base64.b64encode(LOGO.read_bytes()).decode()
