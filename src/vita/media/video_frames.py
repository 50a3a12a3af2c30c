"""Frames of a video file: when each is shown, and decoding the few that are wanted."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from PIL import Image as Pillow

from vita.errors import MediaError
from vita.media.ffmpeg import READ_ERRORS, Damage, decoded_frames
from vita.media.joined import split_joined
from vita.media.policy import UNGUARDED, ReadGuard
from vita.media.source import Loaded
from vita.media.timeline import USUAL_RATE, frame_times
from vita.media.video_display import check_memory, to_image
from vita.media.video_track import Packet, VideoTrack, cut_short, open_track, read_stamps
from vita.types import MediaOptions

MOST_EQUAL = 0.25  # of the stamps of a track that may be equal to others, of frames that are never shown
SAME_RATE = 0.02  # relative difference below which the header's frame rate is that of the stamps, which are rounded


@dataclass(frozen=True)
class Timeline:
    """Every frame of a video in the order shown.

    Attributes:
        times: seconds from the first frame.
        fps: measured frames per second.
        declared_fps: what the header states; 0: nothing.
        broken_off: reading failed before the end.
        stamps: time stamp of each frame, by which it is found while decoding; empty: frames are counted instead.
        starts: packets that can be decoded without others, by stamp.
    """

    times: list[float]
    fps: float
    declared_fps: float = 0.0
    broken_off: bool = False
    stamps: list[int] = field(default_factory=list)
    starts: list[Packet] = field(default_factory=list)


class _StampsDiffer(Exception):
    """The stamps of decoded frames are not those of the packets, or a seek went wrong."""


def read_timeline(loaded: Loaded, options: MediaOptions, guard: ReadGuard = UNGUARDED) -> Timeline:
    """Times of all frames: from the stamps of the packets where these can be trusted, else by decoding.

    Raises:
        MediaError: not a video, frames over the pixel limit, or the deadline has passed.
        Cancelled: the caller cancelled.
    """
    if len(split_joined(loaded, guard)) == 1:
        damage = Damage()
        with open_track(loaded, options, guard) as track:
            if track.stamped:
                packets = read_stamps(track, damage, guard)
                if _ascending(packets):
                    return _stamped_timeline(track, packets, damage)
    return decode_timeline(loaded, options, guard)


def _ascending(packets: Sequence[Packet]) -> bool:
    """Whether the stamps are there, do not jump back in decoding order, and differ."""
    shown = [packet.pts for packet in packets if not packet.discard]
    if None in shown or not shown or len(set(shown)) < (1 - MOST_EQUAL) * len(shown):
        return False
    decoding = [packet.dts for packet in packets if packet.dts is not None]
    return all(b >= a for a, b in pairwise(decoding))


def _stamped_timeline(track: VideoTrack, packets: Sequence[Packet], damage: Damage) -> Timeline:
    shown = [packet for packet in packets if not packet.discard]
    # A frame stored twice under one stamp is shown once.
    stamps = sorted({packet.pts for packet in shown if packet.pts is not None})
    base = float(track.stream.time_base)
    times = frame_times([stamp * base for stamp in stamps], track.rate)
    starts = sorted((packet for packet in shown if packet.keyframe), key=lambda packet: packet.pts or 0)
    broken = damage.broken_off or cut_short(track, len(packets))
    return Timeline(times, _measured_rate(times, track.rate), track.rate, broken, stamps, starts)


def decode_timeline(loaded: Loaded, options: MediaOptions, guard: ReadGuard = UNGUARDED) -> Timeline:
    """Times of all frames as they come out of the decoder. While decoding, such frames are counted.

    Raises:
        MediaError: as `read_timeline`.
        Cancelled: the caller cancelled.
    """
    damage = Damage()
    stamps: list[float | None] = []
    rate = 0.0
    for track, frame in _all_frames(loaded, options, damage, guard):
        rate = rate or track.rate
        stamped = frame.pts is not None and track.has_stamps
        stamps.append(float(frame.pts * track.stream.time_base) if stamped else None)
    times = frame_times(stamps, rate)
    return Timeline(times, _measured_rate(times, rate), rate, damage.broken_off)


def _measured_rate(times: Sequence[float], declared: float) -> float:
    """Frames per second by the times of frames; 25 for a single one."""
    if len(times) < 2:
        return USUAL_RATE
    measured = (len(times) - 1) / (times[-1] - times[0])
    return declared if abs(declared - measured) < SAME_RATE * measured else measured


def decode_frames(
    loaded: Loaded, timeline: Timeline, numbers: Sequence[int], options: MediaOptions, guard: ReadGuard = UNGUARDED
) -> dict[int, Pillow.Image] | None:
    """The frames of these numbers in RGB; those that cannot be decoded are missing.

    Returns:
        None if the stamps of decoded frames are not those of the packets; `decode_timeline` then tells the times.

    Raises:
        MediaError: the file cannot be read any more, a frame is over the pixel limit, or the deadline has passed.
        Cancelled: the caller cancelled.
    """
    wanted = sorted(set(numbers))
    if not timeline.stamps:
        return _decode_by_number(loaded, wanted, options, guard)
    for hop in (True, False):  # where a seek goes wrong (formats without an index), the file is read through once
        try:
            with open_track(loaded, options, guard) as track:
                found: dict[int, Pillow.Image] = {}
                for number, (frame, aspect) in _StampReader(track, timeline, guard).frames(wanted, hop=hop):
                    found[number] = to_image(frame, aspect, options, loaded.name)
                    check_memory(len(wanted), found[number].size, loaded.name)
                return found
        except _StampsDiffer:
            continue
    return None


def _decode_by_number(
    loaded: Loaded, wanted: Sequence[int], options: MediaOptions, guard: ReadGuard
) -> dict[int, Pillow.Image]:
    images: dict[int, Pillow.Image] = {}
    names = set(wanted)
    for number, (track, frame) in enumerate(_all_frames(loaded, options, Damage(), guard)):
        if number in names and not frame.is_corrupt:
            images[number] = to_image(frame, track.stream.sample_aspect_ratio, options, loaded.name)
            check_memory(len(wanted), images[number].size, loaded.name)
        if number >= wanted[-1]:
            break
    return images


def _all_frames(
    loaded: Loaded, options: MediaOptions, damage: Damage, guard: ReadGuard
) -> Iterator[tuple[VideoTrack, Any]]:
    """The frames of every recording in the file, in the order shown."""
    parts = split_joined(loaded, guard)
    for part in parts:
        try:
            with open_track(part, options, guard) as track:
                for frame in track.frames(damage, guard):
                    yield track, frame
                damage.broken_off |= cut_short(track, damage.read)
        except MediaError:
            guard.check(loaded.name)
            if part is parts[0]:
                raise
            damage.broken_off = True


class _StampReader:
    """Finds frames by their time stamps, and skips ahead wherever decoding can begin later."""

    def __init__(self, track: VideoTrack, timeline: Timeline, guard: ReadGuard) -> None:
        self._track, self._timeline, self._guard = track, timeline, guard
        self._damage = Damage()
        self._sizes = {packet.pts: packet.size for packet in timeline.starts}
        self._frames = track.frames(self._damage, guard)
        self._position: int | None = None  # stamp of the last frame
        self._held: Any = None  # the last frame, if it is not passed yet

    def frames(self, numbers: Sequence[int], *, hop: bool) -> Iterator[tuple[int, tuple[Any, Any]]]:
        """(number, (frame, pixel aspect ratio)) of each that can be decoded.

        Raises:
            _StampsDiffer: a frame is missing though nothing is damaged.
        """
        for number in numbers:
            stamp = self._timeline.stamps[number]
            if hop:
                self._skip_to(stamp)
            frame = self._find(stamp)
            if frame is not None and frame.pts == stamp and not frame.is_corrupt:
                yield number, (frame, self._track.stream.sample_aspect_ratio)
            elif not self._damage and not self._damage.incomplete and not (frame is not None and frame.is_corrupt):
                raise _StampsDiffer

    def _find(self, stamp: int) -> Any:
        """The first frame at or after this stamp; None at the end."""
        while self._held is None or self._held.pts < stamp:
            self._held = next(self._frames, None)
            if self._held is None:
                return None
            if self._held.pts is None or (self._position is not None and self._held.pts < self._position):
                raise _StampsDiffer
            self._position = self._held.pts
        return self._held

    def _skip_to(self, stamp: int) -> None:
        starts = self._timeline.starts
        at = bisect.bisect_right(starts, stamp, key=lambda packet: packet.pts or 0) - 1
        if at <= 0 or (self._position is not None and (starts[at].pts or 0) <= self._position):
            return
        pts, dts = starts[at].pts or 0, starts[at].dts
        try:
            # By decoding time: the seek then lands at this start or before it, not after.
            self._track.container.seek(pts if dts is None else min(pts, dts), stream=self._track.stream)
        except READ_ERRORS as error:
            raise _StampsDiffer from error
        self._frames = decoded_frames(self._known_packets(), self._track.decoder, self._damage)
        self._position, self._held = None, None

    def _known_packets(self) -> Iterator[Any]:
        """Packets after a seek. Some formats give them other stamps then, which the starts show."""
        for packet in self._track.packets(self._damage, self._guard):
            if packet.is_keyframe and self._sizes.get(packet.pts) != packet.size:
                raise _StampsDiffer
            yield packet
