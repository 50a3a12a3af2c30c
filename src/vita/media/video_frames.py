"""The frames inside a video file: when each is shown, and decoding the few that are wanted.

Owns PyAV for pictures. Does not choose which frames to look at.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image as Pillow

from vita.errors import MediaError
from vita.media.ffmpeg import Damage, decoded_frames, open_container
from vita.media.policy import UNGUARDED
from vita.media.source import Loaded
from vita.types import MediaOptions

FORMATS = "use mp4, webm, mkv or mov"
ATTACHED_PICTURE = 0x400  # FFmpeg's disposition of a cover in a sound file
PICTURE_FORMATS = ("image2", "_pipe")  # FFmpeg's names for single pictures end so


@dataclass(frozen=True)
class Timeline:
    """Every frame of a video in the order shown.

    `keys[k]` is frame k's name while decoding: its time stamp, or its number where the file has no time stamps.
    """

    times: list[float]  # seconds from the first frame
    keys: list[int]
    starts: list[tuple[int, int]]  # (key, place to seek to) of the frames that can be decoded without others
    fps: float
    broken_off: bool  # the file ends before its header says it would
    stamped: bool


def read_timeline(loaded: Loaded, options: MediaOptions) -> Timeline:
    """Read all packets without decoding: the count and the times hold even where the header says neither.

    Raises:
        MediaError: not a video, or frames over the pixel limit.
    """
    with open_container(loaded, "a video", FORMATS) as container:
        track = _video_track(container, loaded, options)
        damage = Damage()
        packets = [p for p in _packets(container, track, damage) if not p[3]]
        declared = int(track.frames or 0)
        rate = float(track.average_rate or track.base_rate or 0)
        base = float(track.time_base or 0)
    stamped = base > 0 and all(pts is not None for pts, _, _, _ in packets)
    if stamped:
        # A frame stored twice under one stamp is shown once.
        keys = sorted({int(pts) for pts, _, _, _ in packets if pts is not None})
        times = [(key - keys[0]) * base for key in keys]
        starts = sorted(
            (pts, pts if dts is None else min(pts, dts)) for pts, dts, key, _ in packets if key and pts is not None
        )
    else:
        keys = list(range(len(packets)))
        times = [k / (rate or 25.0) for k in keys]  # 25: what FFmpeg takes for a bare stream
        starts = []
    span = times[-1] if times else 0.0
    fps = rate or ((len(times) - 1) / span if span > 0 else 1.0)
    # A header counts hidden and doubled frames too; a few fewer are no sign of damage.
    broken = damage.broken_off or len(packets) < 0.98 * declared - 2
    return Timeline(times, keys, starts, fps, broken, stamped)


def decode_frames(
    loaded: Loaded, timeline: Timeline, numbers: Sequence[int], options: MediaOptions
) -> dict[int, Pillow.Image]:
    """The frames of these numbers, RGB; what cannot be decoded is left out.

    Raises:
        MediaError: the file cannot be read any more, or a frame is over the pixel limit.
    """
    wanted = sorted(set(numbers))
    damage = Damage()
    pictures = _decode(loaded, timeline, wanted, options, damage, hop=True)
    if len(pictures) < len(wanted) and not damage:
        # The file is sound, so a seek went wrong (formats without an index): read it through once.
        pictures = _decode(loaded, timeline, wanted, options, damage, hop=False)
    return pictures


def _decode(
    loaded: Loaded, timeline: Timeline, wanted: list[int], options: MediaOptions, damage: Damage, *, hop: bool
) -> dict[int, Pillow.Image]:
    import av

    pictures: dict[int, Pillow.Image] = {}
    with open_container(loaded, "a video", FORMATS) as container:
        track = _video_track(container, loaded, options)
        track.thread_type = "AUTO"
        keys = [timeline.keys[n] for n in wanted]
        named = dict(zip(keys, wanted, strict=True))
        if timeline.stamped:
            found = _by_stamp(container, track, keys, timeline, damage, hop=hop)
        else:
            found = _by_number(container, track, keys, damage)
        try:
            for key, frame in found:
                pictures[named[key]] = _to_picture(frame, loaded, options)
        except av.error.PermissionError:  # FFmpeg's word for a format that cannot seek; the caller reads on
            return pictures
    return pictures


def _packets(container: Any, track: Any, damage: Damage) -> Iterator[tuple[int | None, int | None, bool, bool]]:
    """(pts, dts, decodable alone, not to be shown) of every packet."""
    import av

    packets = container.demux(track)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.FFmpegError, EOFError):
            damage.broken_off = True
            return
        if packet.size:
            yield packet.pts, packet.dts, packet.is_keyframe, packet.is_discard


def _by_stamp(
    container: Any, track: Any, wanted: list[int], timeline: Timeline, damage: Damage, *, hop: bool
) -> Iterator[tuple[int, Any]]:
    """Frames by time stamp; with `hop`, skips ahead wherever a start lies between here and the next wanted frame."""
    frames: Iterator[Any] | None = None
    position: int | None = None  # time stamp of the last frame decoded
    for key in wanted:
        at = bisect.bisect_right(timeline.starts, (key, key)) - 1
        if hop and at > 0 and (position is None or timeline.starts[at][0] > position):
            # By decoding time: the seek then lands at this start or before it, not after.
            container.seek(timeline.starts[at][1], stream=track)
            frames = None
        if frames is None:
            frames = decoded_frames(container, track, damage, UNGUARDED, "")
        for frame in frames:
            if frame.pts is None:
                continue
            position = frame.pts
            if frame.pts >= key:
                if frame.pts == key and not frame.is_corrupt:
                    yield key, frame
                break


def _by_number(container: Any, track: Any, wanted: list[int], damage: Damage) -> Iterator[tuple[int, Any]]:
    """Frames by number, for files without time stamps."""
    names = set(wanted)
    for number, frame in enumerate(decoded_frames(container, track, damage, UNGUARDED, "")):
        if number in names and not frame.is_corrupt:
            yield number, frame
        if number >= wanted[-1]:
            return


def _to_picture(frame: Any, loaded: Loaded, options: MediaOptions) -> Pillow.Image:
    _check_size(frame, loaded, options)  # a stream may change its size midway
    picture: Pillow.Image = frame.to_image()
    turn = 0 if options.reference else round((frame.rotation or 0) / 90) * 90 % 360
    # Both FFmpeg's angle and Pillow's turn counter-clockwise.
    return picture.rotate(turn, expand=True) if turn else picture


def _video_track(container: Any, loaded: Loaded, options: MediaOptions) -> Any:
    tracks = [t for t in container.streams.video if not int(t.disposition) & ATTACHED_PICTURE]
    if not tracks:
        if container.streams.audio:
            raise MediaError("has no pictures in it, only sound", where=loaded.name, fix="pass it as audio")
        raise MediaError("has no pictures in it", where=loaded.name, fix=FORMATS)
    if container.format.name.endswith(PICTURE_FORMATS):
        raise MediaError("is a picture, not a video", where=loaded.name, fix="pass it as an image")
    _check_size(tracks[0], loaded, options)
    return tracks[0]


def _check_size(sized: Any, loaded: Loaded, options: MediaOptions) -> None:
    if sized.width * sized.height > options.policy.max_pixels:
        raise MediaError(
            f"has frames of {sized.width}x{sized.height} pixels, more than {options.policy.max_pixels / 1e6:g} million",
            where=loaded.name, fix="make the video smaller",
        )  # fmt: skip
