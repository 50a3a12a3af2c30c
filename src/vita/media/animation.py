"""Animated pictures (GIF, WebP, PNG) as videos, by Pillow, which knows all three and how long each frame stands."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image as Pillow

from vita.errors import MediaError
from vita.media.image import check_size, load_image, open_picture
from vita.media.source import Loaded
from vita.types import MediaOptions

DEFAULT_SECONDS = 0.1  # of a frame whose file says 0 or nothing, as browsers show it
MAX_FRAMES = 100_000


@dataclass(frozen=True)
class Animation:
    """An animated picture: when each frame comes on, and how long the whole lasts, in seconds."""

    loaded: Loaded
    times: list[float]
    seconds: float
    notes: tuple[str, ...] = ()

    def decode(self, numbers: list[int], options: MediaOptions) -> dict[int, Pillow.Image]:
        """These frames, RGB, by number; `numbers` ascend.

        Raises:
            MediaError: damaged.
        """
        pictures: dict[int, Pillow.Image] = {}
        with self.loaded.open() as stream:
            picture = open_picture(stream, options, self.loaded.name)
            for number in numbers:
                _show(picture, number, self.loaded.name)
                pictures[number] = load_image(picture.copy(), options)
        return pictures


def open_animation(loaded: Loaded, options: MediaOptions) -> Animation | None:
    """None if the file is none of the three formats (a video, then).

    Raises:
        MediaError: a picture that stands still, a damaged one, or one over the pixel limit.
    """
    with loaded.open() as stream:
        head = stream.read(12)
        stream.seek(0)
        if not (head.startswith((b"GIF8", b"\x89PNG")) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")):
            return None
        picture = open_picture(stream, options, loaded.name)
        check_size(picture, options, loaded.name)
        if not getattr(picture, "is_animated", False):
            raise MediaError("is a picture, not a video", where=loaded.name, fix="pass it as an image")
        return _read_times(picture, loaded)


def _read_times(picture: Pillow.Image, loaded: Loaded) -> Animation:
    """Walk through all frames, one in memory at a time; a damaged one ends the animation."""
    times, now = [], 0.0
    notes: tuple[str, ...] = ()
    for number in range(MAX_FRAMES):
        try:
            _show(picture, number, loaded.name)
        except EOFError:
            break
        except MediaError:
            if number == 0:
                raise
            notes = (f"{loaded.name}: it is damaged after frame {number}; the frames before that were used.",)
            break
        times.append(now)
        now += float(picture.info.get("duration") or 0) / 1000 or DEFAULT_SECONDS
    return Animation(loaded, times, now, notes)


def _show(picture: Pillow.Image, number: int, name: str) -> None:
    """Go to a frame.

    Raises:
        EOFError: there is none of this number.
        MediaError: it is damaged.
    """
    try:
        picture.seek(number)
    except EOFError:
        raise
    except Exception as error:  # decoders raise many kinds for damaged files
        raise MediaError("is a damaged animation", where=name, fix="save it again or as mp4") from error
    try:
        picture.load()  # WebP says how long a frame stands only once it is decoded
    except Exception as error:  # decoders raise many kinds for damaged files
        raise MediaError("is a damaged animation", where=name, fix="save it again or as mp4") from error
