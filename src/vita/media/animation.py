"""Animated images (GIF, WebP, APNG) as videos: frame times and decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image as Pillow

from vita.errors import Cancelled, MediaError
from vita.media.image import load_image
from vita.media.image_file import check_size, open_image
from vita.media.png import check_png
from vita.media.policy import UNGUARDED, ReadGuard
from vita.media.source import Loaded
from vita.media.video_display import check_memory
from vita.types import MediaOptions

DEFAULT_SECONDS = 0.1  # of a frame whose file says 0 or nothing, as browsers show it
MAX_FRAMES = 100_000
# All frames together may have so many times the pixels of the largest allowed image: 3.8e9 by default, half a minute
# of decoding. Each frame is built on the one before, so all are decoded whichever are wanted.
MAX_IMAGES = 32


@dataclass(frozen=True)
class Animation:
    """An animated image.

    Attributes:
        loaded: the file.
        times: when each frame comes on, in seconds.
        seconds: how long it lasts.
        notes: sentences the user should read.
        first: number of the first frame in the file; 1 where a still image precedes the animation (APNG).
    """

    loaded: Loaded
    times: list[float]
    seconds: float
    notes: tuple[str, ...] = ()
    first: int = 0

    def decode(
        self, numbers: list[int], options: MediaOptions, guard: ReadGuard = UNGUARDED
    ) -> dict[int, Pillow.Image]:
        """These frames, RGB, by number; `numbers` ascend.

        Raises:
            MediaError: damaged, or too slow. Cancelled: by the guard.
        """
        images: dict[int, Pillow.Image] = {}
        with self.loaded.open() as file:
            image = open_image(guard.watch(file, self.loaded.name), options, self.loaded.name)
            shown = -1
            for number in numbers:
                # One by one, so that the size is checked and the guard asked at each.
                for position in range(shown + 1, number + self.first + 1):
                    try:
                        _show(image, position, options, self.loaded.name, guard)
                    except (_DamagedFrame, EOFError) as error:  # the file has changed since its times were read
                        raise _damaged(self.loaded.name) from error
                    shown = position
                images[number] = load_image(image.copy(), options, guard)
                check_memory(len(numbers), images[number].size, self.loaded.name)
        return images


def open_animation(loaded: Loaded, options: MediaOptions, guard: ReadGuard = UNGUARDED) -> Animation | None:
    """None if the file is none of the three formats (a video, then).

    Raises:
        MediaError: an image that is not animated, a damaged one, one over a limit, or too slow.
        Cancelled: by the guard.
    """
    name = loaded.name
    with loaded.open() as file:
        head = file.read(12)
        file.seek(0)
        if not (head.startswith((b"GIF8", b"\x89PNG")) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")):
            return None
        stream = guard.watch(file, name)
        image = open_image(stream, options, name)
        check_size(image, options, name)
        if not _is_animated(image, name):
            raise MediaError("is a still image, not a video", where=name, fix="pass it as an image")
        _check_budget(image, stream, options, name)
        return _read_times(image, loaded, options, guard)


def _is_animated(image: Pillow.Image, name: str) -> bool:
    """Whether there is a second frame. A GIF looks for it in the file, which may be damaged there."""
    try:
        return bool(getattr(image, "is_animated", False))
    except (MediaError, Cancelled):
        raise
    except Exception as error:  # decoders raise many kinds for damaged files
        raise _damaged(name) from error


def _check_budget(image: Pillow.Image, stream: BinaryIO, options: MediaOptions, name: str) -> None:
    """Refuse before decoding what would decode too many pixels, by the frames that are there."""
    place = stream.tell()
    frames = check_png(stream, name) or _count_frames(image, name)
    stream.seek(place)
    limit = MAX_IMAGES * options.policy.max_pixels
    if frames > MAX_FRAMES:
        raise MediaError(f"has more than {MAX_FRAMES:,} frames", where=name, fix="save it as mp4")
    if frames * image.width * image.height > limit:
        raise MediaError(
            f"has {frames:,} frames of {image.width}x{image.height}, more than {limit / 1e6:g} million pixels in all",
            where=name, fix="make it smaller, or save it as mp4",
        )  # fmt: skip


def _count_frames(image: Pillow.Image, name: str) -> int:
    """Of a GIF or WebP, without decoding."""
    try:
        return int(getattr(image, "n_frames", 1))
    except (MediaError, Cancelled):
        raise
    except Exception as error:  # decoders raise many kinds for damaged files
        raise _damaged(name) from error


def _read_times(image: Pillow.Image, loaded: Loaded, options: MediaOptions, guard: ReadGuard) -> Animation:
    """Walk through all frames, one in memory at a time; a damaged one ends the animation."""
    times, now = [], 0.0
    notes: tuple[str, ...] = ()
    # The default image of an APNG may be outside the animation: it is for programs that show no APNG.
    first = 1 if getattr(image, "default_image", False) else 0
    for number in range(MAX_FRAMES + first):
        try:
            _show(image, number, options, loaded.name, guard)
        except EOFError:
            break
        except _DamagedFrame as error:
            if number <= first:
                raise _damaged(loaded.name) from error
            good = number - first
            notes = (f"{loaded.name}: it is damaged after frame {good}; the frames before that were used.",)
            break
        if number < first:
            continue
        times.append(now)
        now += float(image.info.get("duration") or 0) / 1000 or DEFAULT_SECONDS
    if not times:
        raise _damaged(loaded.name)
    return Animation(loaded, times, now, notes, first)


class _DamagedFrame(Exception):
    pass


def _show(image: Pillow.Image, number: int, options: MediaOptions, name: str, guard: ReadGuard) -> None:
    """Go to a frame and decode it.

    Raises:
        EOFError: there is none of this number.
        MediaError: over the limits, or too slow.
        _DamagedFrame: it is damaged.
    """
    guard.check(name)
    try:
        image.seek(number)
    except (EOFError, MediaError, Cancelled):
        raise
    except Exception as error:  # decoders raise many kinds for damaged files
        raise _DamagedFrame from error
    check_size(image, options, name)  # a frame of a GIF may be larger than its screen
    try:
        image.load()  # WebP says how long a frame stands only once it is decoded
    except (MediaError, Cancelled):
        raise
    except Exception as error:  # decoders raise many kinds for damaged files
        raise _DamagedFrame from error


def _damaged(name: str) -> MediaError:
    return MediaError("is a damaged animation", where=name, fix="save it again or as mp4")
