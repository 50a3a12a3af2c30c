"""Video: choosing the frames to look at and reading only those (spec section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow

from vita.errors import MediaError
from vita.media.animation import Animation, open_animation
from vita.media.image import load_image_with_notes
from vita.media.policy import UNGUARDED, ReadGuard
from vita.media.source import Loaded, array_values, read_source
from vita.media.video_display import check_memory
from vita.types import MediaOptions, Video

if TYPE_CHECKING:
    from vita.media.video_frames import Timeline

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
    stride = max(1, round(min(fps / sample_fps, n_frames)))  # Python rounds halves to even, as the reference does
    positions = list(range(0, n_frames, stride))
    return _limit_count(positions, max_frames, min_frames)


def load_video(
    video: Video, options: MediaOptions | None = None, min_frames: int = MIN_FRAMES, guard: ReadGuard = UNGUARDED
) -> Clip:
    """The frames to look at.

    Args:
        video: a source, or a list of images that are its frames (an array `[n, h, w, 3]` is such a list).
        options: limits, and whether to do as the reference: rotation, pixel aspect ratio and transparency ignored,
            frames picked by number and the header's frame rate even where the rate varies.
        min_frames: a clip with fewer repeats them, as the model was trained to see it.
        guard: deadline and cancel of the request.

    Raises:
        MediaError: not a video, no frame in it (or in the requested stretch), damaged from the start, or too large; the
            deadline has passed.
        Cancelled: the caller cancelled.
    """
    options = options or MediaOptions()
    source = array_values(video.source)
    if isinstance(source, np.ndarray) and source.ndim == 4:
        source = list(source)
    if isinstance(source, (list, tuple)):
        return _from_images(source, video, options, min_frames, guard)
    if isinstance(source, (np.ndarray, Pillow.Image)):
        raise MediaError("one image is not a video", fix="pass it as an image, or a list of images")
    loaded = read_source(source, options, "video", guard)
    guard.check(loaded.name)
    animation = open_animation(loaded, options, guard)
    if animation is not None:
        return _from_animation(animation, loaded, video, options, min_frames, guard)
    try:
        return _from_container(loaded, video, options, min_frames, guard)
    except MemoryError as error:
        raise MediaError("does not fit in memory", where=loaded.name, fix="make the video smaller") from error


def _from_images(
    sources: Sequence[Any], video: Video, options: MediaOptions, min_frames: int, guard: ReadGuard
) -> Clip:
    if not sources:
        raise MediaError("a video of no frames shows nothing", fix="pass at least one image")
    # Given frames are taken to be sampled already: a stride of one.
    numbers = pick_frames(1.0, len(sources), max_frames=video.max_frames, min_frames=min_frames)
    images: dict[int, Pillow.Image] = {}
    notes: list[str] = []
    for n in sorted(set(numbers)):
        guard.check("<frames>")
        loaded = load_image_with_notes(sources[n], options, guard)
        images[n] = loaded.image
        check_memory(len(set(numbers)), loaded.image.size, "<frames>")
        notes += loaded.notes
    times = [n / video.fps for n in numbers]
    repeats = _repeats("the clip", numbers)
    return Clip([images[n] for n in numbers], times, video.fps, len(sources), (*notes, *repeats))


def _from_container(loaded: Loaded, video: Video, options: MediaOptions, min_frames: int, guard: ReadGuard) -> Clip:
    """Two passes: the times of all frames, mostly without decoding, then decode and keep the picked ones."""
    from vita.media.video_frames import decode_frames, decode_timeline, read_timeline

    def pick(timeline: Timeline) -> list[int]:
        fps = (timeline.declared_fps if options.reference else 0.0) or timeline.fps
        return _pick_by_time(timeline.times, fps, video, options, min_frames, loaded.name)

    timeline = read_timeline(loaded, options, guard)
    numbers = pick(timeline)
    frames = decode_frames(loaded, timeline, numbers, options, guard)
    if frames is None:
        timeline = decode_timeline(loaded, options, guard)
        numbers = pick(timeline)
        frames = decode_frames(loaded, timeline, numbers, options, guard)
    if not frames:
        raise MediaError("has no frame that can be decoded", where=loaded.name, fix="save the video again")
    shown = [_nearest(n, frames) for n in numbers]
    notes = _damage_notes(loaded.name, timeline, shown != numbers)
    return Clip(
        [frames[n] for n in shown],
        [timeline.times[n] for n in shown],
        timeline.fps,
        len(timeline.times),
        (*notes, *_repeats(loaded.name, numbers)),
    )


def _from_animation(
    animation: Animation, loaded: Loaded, video: Video, options: MediaOptions, min_frames: int, guard: ReadGuard
) -> Clip:
    times = animation.times
    fps = len(times) / animation.seconds
    numbers = _pick_by_time(times, fps, video, options, min_frames, loaded.name)
    frames = animation.decode(sorted(set(numbers)), options, guard)
    return Clip(
        [frames[n] for n in numbers],
        [times[n] for n in numbers],
        fps,
        len(times),
        (*animation.notes, *_repeats(loaded.name, numbers)),
    )


def _pick_by_time(
    times: list[float], fps: float, video: Video, options: MediaOptions, min_frames: int, name: str
) -> list[int]:
    """`pick_frames` in the requested stretch; where the rate varies, the frame on screen at each tick of the clock."""
    start = video.start or 0.0
    end = math.inf if video.end is None else video.end
    # A frame stays on screen until the next one comes.
    until = [*times[1:], times[-1] + 1.0 / fps] if times else []
    inside = [k for k, t in enumerate(times) if until[k] > start + 1e-6 and t <= end]
    if not inside:
        asked = f"after {start:g}" if math.isinf(end) else f"between {start:g} and {end:g}"
        what = f"has no frames {asked} seconds, it lasts {until[-1]:.4g}" if times else "has no frames"
        raise MediaError(what, where=name)
    stretch = [times[k] for k in inside]
    gaps = np.diff(stretch)
    if options.reference or gaps.size == 0 or float(gaps.max()) < 1.5 * float(np.median(gaps)) + 1e-3:
        picks = pick_frames(fps, len(inside), sample_fps=video.fps, max_frames=video.max_frames, min_frames=min_frames)
    else:
        # No frame twice only because it is shown long: it would crowd out the rest.
        shown = _on_screen(np.array(stretch), max(start, stretch[0]), video.fps)
        picks = _limit_count(shown, video.max_frames, min_frames)
    return [inside[p] for p in picks]


def _on_screen(times: np.ndarray[Any, Any], start: float, fps: float) -> list[int]:
    """Frames that are on screen at one of the seconds `start`, `start + 1/fps`, … The work grows with the frames only.

    Args:
        times: when each frame comes on, ascending, in seconds: float64 `[n]`.
    """
    # A tick belongs to the frame that comes on up to a microsecond later: both are rounded.
    tick = np.maximum(0.0, np.ceil((times - 1e-6 - start) * fps))  # the first one at or after each frame's time
    until = np.append(times[1:] - 1e-6, times[-1] + 2e-6)
    return [int(n) for n in np.flatnonzero(start + tick / fps < until)]


def _nearest(number: int, frames: dict[int, Pillow.Image]) -> int:
    """The decoded frame that stands for this one: the last good one before it, else the first."""
    return max((n for n in frames if n <= number), default=min(frames))


def _damage_notes(name: str, timeline: Timeline, lost: bool) -> list[str]:
    notes = []
    if timeline.broken_off:
        notes.append(f"{name}: it breaks off before its end; what could be read was used.")
    if lost:
        notes.append(f"{name}: some frames are damaged; the last good frame before each stands for it.")
    return notes


def _repeats(name: str, numbers: Sequence[int]) -> tuple[str, ...]:
    if len(set(numbers)) == len(numbers):
        return ()
    return (f"{name}: it is short, so some of its frames are shown to the model more than once.",)


def _limit_count(items: Sequence[int], most: int, least: int) -> list[int]:
    """Thinned to `most`, or repeated up to `least`."""
    if len(items) > most:
        return _spread(items, most)
    return _spread(items, min(least, most)) if len(items) < least else list(items)


def _spread(items: Sequence[int], count: int) -> list[int]:
    """`count` of the items, evenly, ends included; repeated if there are fewer."""
    return [items[int(k)] for k in np.linspace(0, len(items) - 1, count)]
