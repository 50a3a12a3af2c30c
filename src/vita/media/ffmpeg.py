"""Files that hold tracks: opening them with PyAV, and the sound in them.

Owns the dealings with FFmpeg that video and sound share. Imported only when a file needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np

from vita.errors import MediaError
from vita.media.resample import Samples
from vita.media.source import Loaded

# Playlists (HLS, concat) name other files and addresses. FFmpeg would open them: a file sent by a stranger could
# read this machine's files or knock at its neighbours. No protocol of this name exists, so nothing is opened.
ISOLATED = {"protocol_whitelist": "none"}


@contextmanager
def open_container(loaded: Loaded, kind: str, formats: str) -> Iterator[Any]:
    """An open PyAV container; whatever FFmpeg says inside the block becomes one sentence.

    Args:
        loaded: the file.
        kind: "video" or "sound", for the sentence.
        formats: what to use instead, for the sentence.

    Raises:
        MediaError: not such a file, or damaged beyond reading.
    """
    try:
        with loaded.open() as stream, av.open(stream, metadata_errors="ignore", options=ISOLATED) as container:
            yield container
    except (av.FFmpegError, ValueError, OSError, EOFError) as error:
        raise MediaError(f"is not a {kind} in a known format, or is damaged", where=loaded.name, fix=formats) from error


class Damage:
    """What went wrong while a track was decoded: counted, so that it can be said."""

    def __init__(self) -> None:
        self.packets = 0  # that could not be decoded
        self.broken_off = False  # the file could not be read to its end

    def __bool__(self) -> bool:
        return self.packets > 0 or self.broken_off


def decoded_frames(container: Any, track: Any, damage: Damage) -> Iterator[Any]:
    """The frames of a track from where the container stands; undecodable packets are counted and passed over."""
    packets = container.demux(track)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.FFmpegError, EOFError):
            damage.broken_off = True
            return
        try:
            frames = packet.decode()
        except (av.FFmpegError, EOFError):
            damage.packets += 1
            continue
        yield from frames


def decode_sound(loaded: Loaded, notes: list[str], check: Callable[[float], None]) -> Iterator[tuple[Samples, int]]:
    """The first sound track in blocks.

    Args:
        loaded: a sound or a video.
        notes: receives a sentence if a part could not be decoded.
        check: called with the length in seconds the header promises; may raise.

    Yields:
        float32 `[channels, n]` and the rate in Hz, the same for all blocks.

    Raises:
        MediaError: no sound in it, not a known format, or nothing of it can be decoded.
    """
    with open_container(loaded, "sound", "use wav, flac, mp3, ogg, m4a or webm") as container:
        if not container.streams.audio:
            raise MediaError("has no sound in it", where=loaded.name)
        track = container.streams.audio[0]
        check(_promised_seconds(container, track))
        damage = Damage()
        to_planes = _Planes()
        count = 0
        for frame in decoded_frames(container, track, damage):
            for samples in to_planes(frame):
                count += 1
                yield samples, to_planes.rate
        if damage.packets > count:
            raise MediaError("is a damaged sound", where=loaded.name)
        if damage:
            notes.append(f"{loaded.name}: it is damaged; the sound that could be decoded was used.")


def _promised_seconds(container: Any, track: Any) -> float:
    """Of the track where it says so, else of the whole file; 0 where neither does."""
    if track.duration and track.time_base:
        return float(track.duration * track.time_base)
    return float(container.duration or 0) / av.time_base


class _Planes:
    """Frames of any sample format to float32 `[channels, n]`, all at the first frame's rate and layout."""

    def __init__(self) -> None:
        self.rate = 0
        self._layout = ""
        self._input: tuple[int, str, str] | None = None
        self._resampler: Any = None

    def __call__(self, frame: Any) -> list[Samples]:
        # The decoder's rate can differ from the header's (HE-AAC doubles it), and a stream may change midway.
        shape = (frame.sample_rate, frame.layout.name, frame.format.name)
        if self._input is None:
            self.rate, self._layout = shape[0], shape[1]
        if shape != self._input:
            self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=self.rate)
            self._input = shape
        return [piece.to_ndarray().astype(np.float32, copy=False) for piece in self._resampler.resample(frame)]
