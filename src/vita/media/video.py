"""Video: which frames are looked at, and getting just those (spec section 3.4).

Owns the choice of frames; `frames` and `animation` decode them. Never holds more frames than are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow

from vita.errors import MediaError
from vita.media.animation import Animation, open_animation
from vita.media.image import load_image
from vita.media.source import Loaded, array_values, read_source
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
    stride = max(1, round(fps / sample_fps))  # Python rounds halves to even, as the reference does
    positions = list(range(0, n_frames, stride))
    return _fit_count(positions, max_frames, min_frames)


def load_video(video: Video, options: MediaOptions | None = None, min_frames: int = MIN_FRAMES) -> Clip:
    """The frames to look at.

    Args:
        video: a source, or a list of pictures that are its frames (an array `[n, h, w, 3]` is such a list).
        options: limits, and whether to do as the reference: rotation metadata ignored, frames picked by number
            even where the rate varies.
        min_frames: a clip with fewer repeats them, as the model was trained to see it.

    Raises:
        MediaError: not a video, no frame in it (or in the asked stretch), damaged from the start, or too large.
    """
    options = options or MediaOptions()
    _check_request(video)
    source = array_values(video.source)
    if isinstance(source, np.ndarray) and source.ndim == 4:
        source = list(source)
    if isinstance(source, (list, tuple)):
        return _from_pictures(source, video, options, min_frames)
    if isinstance(source, (np.ndarray, Pillow.Image)):
        raise MediaError("one picture is not a video", fix="pass it as an image, or a list of pictures")
    loaded = read_source(source, options, "video")
    animation = open_animation(loaded, options)
    if animation is not None:
        return _from_animation(animation, loaded, video, options, min_frames)
    return _from_container(loaded, video, options, min_frames)


def _check_request(video: Video) -> None:
    if not (math.isfinite(video.fps) and video.fps > 0):
        raise MediaError(f"{video.fps} frames looked at per second is not possible", fix="pass a positive fps")
    if video.max_frames < 1:
        raise MediaError(
            f"a video of at most {video.max_frames} frames shows nothing", fix="pass max_frames of 1 or more"
        )
    for name, second in (("start", video.start), ("end", video.end)):
        if second is not None and not second >= 0:
            raise MediaError(f"{name} of a video is {second} seconds", fix="pass 0 or more")
    if video.start is not None and video.end is not None and video.start > video.end:
        raise MediaError(f"start of a video ({video.start:g} s) is after its end ({video.end:g} s)", fix="swap them")


def _from_pictures(sources: Sequence[Any], video: Video, options: MediaOptions, min_frames: int) -> Clip:
    if not sources:
        raise MediaError("a video of no frames shows nothing", fix="pass at least one picture")
    # Given frames are taken to be sampled already: a stride of one.
    numbers = pick_frames(1.0, len(sources), max_frames=video.max_frames, min_frames=min_frames)
    pictures = {n: load_image(sources[n], options) for n in sorted(set(numbers))}
    times = [n / video.fps for n in numbers]
    return Clip([pictures[n] for n in numbers], times, video.fps, len(sources), _repeats("the clip", numbers))


def _from_container(loaded: Loaded, video: Video, options: MediaOptions, min_frames: int) -> Clip:
    """Two passes: the times of all frames by their packets, then decode and keep the picked ones."""
    from vita.media.video_frames import decode_frames, read_timeline

    timeline = read_timeline(loaded, options)
    numbers = _pick_by_time(timeline.times, timeline.fps, video, options, min_frames, loaded.name)
    pictures = decode_frames(loaded, timeline, numbers, options)
    if not pictures:
        raise MediaError("has no frame that can be decoded", where=loaded.name, fix="save the video again")
    shown = [_nearest(n, pictures) for n in numbers]
    notes = _damage_notes(loaded.name, timeline, shown != numbers)
    return Clip(
        [pictures[n] for n in shown],
        [timeline.times[n] for n in shown],
        timeline.fps,
        len(timeline.times),
        (*notes, *_repeats(loaded.name, numbers)),
    )


def _from_animation(animation: Animation, loaded: Loaded, video: Video, options: MediaOptions, min_frames: int) -> Clip:
    times = animation.times
    fps = len(times) / animation.seconds
    numbers = _pick_by_time(times, fps, video, options, min_frames, loaded.name)
    pictures = animation.decode(sorted(set(numbers)), options)
    return Clip(
        [pictures[n] for n in numbers],
        [times[n] for n in numbers],
        fps,
        len(times),
        (*animation.notes, *_repeats(loaded.name, numbers)),
    )


def _pick_by_time(
    times: list[float], fps: float, video: Video, options: MediaOptions, min_frames: int, name: str
) -> list[int]:
    """`pick_frames` in the asked stretch; where the rate varies, the frame on screen at each tick of the clock."""
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
        ticks = np.arange(max(start, stretch[0]), stretch[-1] + 1e-6, 1.0 / video.fps)
        shown = [max(0, int(np.searchsorted(stretch, t + 1e-6, side="right")) - 1) for t in ticks]
        # No frame twice only because it stands long: still pictures would crowd out the rest.
        picks = _fit_count(sorted(set(shown)), video.max_frames, min_frames)
    return [inside[p] for p in picks]


def _nearest(number: int, pictures: dict[int, Pillow.Image]) -> int:
    """The decoded frame that stands for this one: the last good one before it, else the first."""
    return max((n for n in pictures if n <= number), default=min(pictures))


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


def _fit_count(items: Sequence[int], most: int, least: int) -> list[int]:
    """Thinned to `most`, or repeated up to `least`."""
    if len(items) > most:
        return _spread(items, most)
    return _spread(items, min(least, most)) if len(items) < least else list(items)


def _spread(items: Sequence[int], count: int) -> list[int]:
    """`count` of the items, evenly, ends included; repeated if there are fewer."""
    return [items[int(k)] for k in np.linspace(0, len(items) - 1, count)]
