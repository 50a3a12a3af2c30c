"""Video: which frames are looked at, and getting just those (spec section 3.4).

Owns the choice of frames and their decoding with PyAV. Never holds more frames than are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as Pillow

from vita.errors import MediaError
from vita.media.image import load_image
from vita.media.load import Loaded, read_source
from vita.types import MediaOptions, Video

MIN_FRAMES = 4


@dataclass(frozen=True)
class Clip:
    """The frames of a video that the model will see, RGB, in order, with their times in seconds."""

    frames: list[Pillow.Image]
    times: list[float]
    fps: float
    n_frames: int
    notes: tuple[str, ...] = ()


def pick_frames(
    fps: float, n_frames: int, *, sample_fps: float = 1.0, max_frames: int = 16, min_frames: int = MIN_FRAMES
) -> list[int]:
    """Frame numbers: one per `1/sample_fps` seconds, thinned to `max_frames`, repeated up to `min_frames`.

    Args:
        fps: average frames per second of the clip; so slow a clip that the stride would be 0 gives every frame.
        n_frames: how many it has, 1 or more.
    """
    stride = max(1, round(fps / sample_fps))  # Python rounds halves to even, as the reference does
    positions = list(range(0, n_frames, stride))
    if len(positions) > max_frames:
        return _spread(positions, max_frames)
    if len(positions) < min_frames:
        return _spread(positions, min(min_frames, max_frames))
    return positions


def load_video(video: Video, options: MediaOptions | None = None, min_frames: int = MIN_FRAMES) -> Clip:
    """The frames to look at.

    Args:
        video: a source, or a list of pictures that are its frames.
        options: limits, and whether rotation metadata is ignored as the reference does.

    Raises:
        MediaError: not a video, no frame in it (or in the asked stretch), damaged from the start, or too large.
    """
    options = options or MediaOptions()
    if video.fps <= 0 or video.max_frames < 1:
        raise MediaError("fps and max_frames of a video must be positive")
    if isinstance(video.source, (list, tuple)):
        return _from_pictures(video, options)
    loaded = read_source(video.source, options, "video")
    import av

    try:
        return _from_container(loaded, video, options, min_frames)
    except MediaError:
        raise
    except (av.FFmpegError, ValueError, OSError, EOFError) as error:
        raise MediaError(
            "is not a video in a known format, or is damaged", where=loaded.name, fix="use mp4, webm, mkv or mov"
        ) from error


def _from_pictures(video: Video, options: MediaOptions) -> Clip:
    sources: Sequence[Any] = video.source
    if not sources:
        raise MediaError("a video of no frames shows nothing", fix="pass at least one picture")
    numbers = list(range(len(sources)))
    if len(numbers) > video.max_frames:
        numbers = _spread(numbers, video.max_frames)
    frames = [load_image(sources[n], options) for n in numbers]
    return Clip(frames, [n / video.fps for n in numbers], video.fps, len(sources))


def _from_container(loaded: Loaded, video: Video, options: MediaOptions, min_frames: int) -> Clip:
    """Two passes: count frames by their packets' times, then decode and keep the picked ones."""
    times, fps, cut = _frame_times(loaded, options)
    start = video.start or 0.0
    end = float("inf") if video.end is None else video.end
    inside = [k for k, t in enumerate(times) if start <= t <= end]
    if not inside:
        asked = f" between {start:g} and {end:g} seconds" if times else ""
        raise MediaError(f"has no frames{asked}", where=loaded.name)
    picks = _pick_by_time([times[k] for k in inside], fps, video, min_frames)
    numbers = [inside[p] for p in picks]
    kept = _decode(loaded, set(numbers), options)
    if not kept:
        raise MediaError("has no frame that can be decoded", where=loaded.name)
    lost = sorted(set(numbers) - set(kept))
    notes = [f"{loaded.name}: it is damaged near its end; the last good frame stands for the rest."] if lost else []
    if cut:
        notes.append(f"{loaded.name}: it breaks off before its end; what could be read was used.")
    last = max(kept)
    frames = [kept.get(n) or kept[last] for n in numbers]
    return Clip(frames, [times[n] if n in kept else times[last] for n in numbers], fps, len(times), tuple(notes))


def _pick_by_time(times: list[float], fps: float, video: Video, min_frames: int) -> list[int]:
    """`pick_frames` for even frame rates; where the rate varies, the frame on screen at each tick of the clock."""
    numbers = pick_frames(fps, len(times), sample_fps=video.fps, max_frames=video.max_frames, min_frames=min_frames)
    gaps = np.diff(times)
    even = gaps.size == 0 or float(gaps.max()) < 1.5 * float(np.median(gaps)) + 1e-3
    if even:
        return numbers
    ticks = np.arange(times[0], times[-1] + 1e-6, 1.0 / video.fps)
    shown = [int(np.searchsorted(times, t + 1e-6, side="right") - 1) for t in ticks]
    if len(shown) > video.max_frames:
        return _spread(shown, video.max_frames)
    return shown if len(shown) >= min_frames else _spread(shown, min(min_frames, video.max_frames))


def _frame_times(loaded: Loaded, options: MediaOptions) -> tuple[list[float], float, bool]:
    """The display time of every frame in seconds, the average rate, and whether the file breaks off."""
    import av

    cut = False
    with loaded.open() as stream, av.open(stream, metadata_errors="ignore") as container:
        track = _video_track(container, loaded, options)
        base = float(track.time_base) if track.time_base else 0.0
        stamps: list[float] = []
        try:
            for packet in container.demux(track):
                if packet.size and not packet.is_discard:
                    stamp = packet.pts if packet.pts is not None else packet.dts
                    stamps.append(len(stamps) * 1.0 if stamp is None or not base else stamp * base)
        except (av.FFmpegError, EOFError):
            cut = True
        rate = track.average_rate or track.base_rate
    times = sorted(stamps)
    first = times[0] if times else 0.0
    times = [t - first for t in times]
    span = times[-1] if times else 0.0
    fps = float(rate) if rate else (len(times) - 1) / span if span > 0 else 1.0
    return times, fps, cut


def _decode(loaded: Loaded, wanted: set[int], options: MediaOptions) -> dict[int, Pillow.Image]:
    """The wanted frames by number; stops at the first that cannot be decoded."""
    import av

    kept: dict[int, Pillow.Image] = {}
    with loaded.open() as stream, av.open(stream, metadata_errors="ignore") as container:
        track = _video_track(container, loaded, options)
        track.thread_type = "AUTO"
        try:
            for number, frame in enumerate(container.decode(track)):
                if number in wanted:
                    kept[number] = _to_picture(frame, options)
                    if len(kept) == len(wanted):
                        break
        except (av.FFmpegError, EOFError):
            return kept  # the caller sees which frames are missing and says so
    return kept


def _to_picture(frame: Any, options: MediaOptions) -> Pillow.Image:
    picture: Pillow.Image = frame.to_image()
    turn = 0 if options.reference else round(getattr(frame, "rotation", 0) or 0) % 360
    # PyAV gives the turn counter-clockwise, as Pillow takes it.
    return picture.rotate(turn, expand=True) if turn else picture


def _video_track(container: Any, loaded: Loaded, options: MediaOptions) -> Any:
    if not container.streams.video:
        raise MediaError("has no pictures in it, only sound", where=loaded.name, fix="pass it as --audio")
    track = container.streams.video[0]
    if track.width * track.height > options.max_pixels:
        raise MediaError(f"has frames of {track.width}x{track.height} pixels, which is too large", where=loaded.name)
    return track


def _spread(items: Sequence[int], count: int) -> list[int]:
    """`count` of the items, evenly, ends included; repeated if there are fewer."""
    return [items[int(k)] for k in np.linspace(0, len(items) - 1, count)]
