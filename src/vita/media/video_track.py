"""The video track of a file: which one is shown, what decodes it, and its packets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vita.errors import MediaError
from vita.media.ffmpeg import DEFAULT_TRACK, Damage, decoded_frames, known_tracks, open_container, read_packets
from vita.media.policy import ReadGuard
from vita.media.source import Loaded
from vita.media.video_display import check_size
from vita.types import MediaOptions

FORMATS = "use mp4, webm, mkv or mov"
ATTACHED_IMAGE = 0x400  # FFmpeg's disposition of a cover in an audio file
IMAGE_FORMATS = ("image2", "_pipe")  # FFmpeg's names for single images end so
NO_TIME_STAMPS = 0x80  # FFmpeg's flag of formats that are a bare stream
# AVI, OGM and Video for Windows in Matroska hold no times of display. FFmpeg guesses them, wrongly where a codec
# reorders frames.
GUESSED_STAMPS = ("avi", "ogg")
# First bytes of an HEVC or H.264 stream with start codes: a start code, then a header of a parameter set, an access
# unit delimiter or supplemental information. Some files name another codec.
HEVC_UNITS = (0x40, 0x42, 0x46, 0x4E)
H264_UNITS = (0x67, 0x27, 0x09, 0x06)


@dataclass(frozen=True)
class Packet:
    """What the times of a track are told from. Stamps are in units of the track's time base."""

    pts: int | None
    dts: int | None
    size: int  # bytes
    keyframe: bool
    discard: bool  # an edit list leaves it out


@dataclass(frozen=True)
class VideoTrack:
    """An open video track.

    Attributes:
        container, stream, decoder: of PyAV.
        name: of the file, for error sentences.
        stamped: the time stamps of its packets are times of display.
    """

    container: Any
    stream: Any
    decoder: Any
    name: str
    stamped: bool

    @property
    def rate(self) -> float:
        """Frames per second that the header states; 0: nothing."""
        return float(self.stream.average_rate or self.stream.base_rate or 0)

    @property
    def has_stamps(self) -> bool:
        """Whether frames come with stamps, if only in decoding order."""
        return bool(self.stream.time_base) and not self.container.format.flags & NO_TIME_STAMPS

    def packets(self, damage: Damage, guard: ReadGuard) -> Iterator[Any]:
        """PyAV packets from the current position."""
        return read_packets(self.container, self.stream, damage, guard, self.name)

    def frames(self, damage: Damage, guard: ReadGuard) -> Iterator[Any]:
        """PyAV frames from the current position."""
        return decoded_frames(self.packets(damage, guard), self.decoder, damage)


@contextmanager
def open_track(loaded: Loaded, options: MediaOptions, guard: ReadGuard) -> Iterator[VideoTrack]:
    """The track to show, at its beginning: of those with more than one frame the default one, then the largest.

    Raises:
        MediaError: not a video, no known codec, or frames over the pixel limit.
        Cancelled: the caller cancelled.
    """
    with open_container(loaded, "a video", FORMATS, guard) as container:
        candidates = _candidates(container, loaded)
        index, codec = candidates[0].index, None
        if len(candidates) > 1:
            index = _choose(container, candidates, guard, loaded.name)
        elif candidates[0].codec_context.name == "rawvideo":
            codec = _stream_codec(container, candidates[0], guard, loaded.name)
        else:
            yield _prepare(container, candidates[0], codec, loaded, options)
            return
    with open_container(loaded, "a video", FORMATS, guard) as container:  # again: packets were read
        yield _prepare(container, container.streams[index], codec, loaded, options)


def _candidates(container: Any, loaded: Loaded) -> list[Any]:
    tracks = [t for t in container.streams.video if not int(t.disposition) & ATTACHED_IMAGE]
    if not tracks:
        if container.streams.audio:
            raise MediaError("has no video in it, only audio", where=loaded.name, fix="pass it as audio")
        raise MediaError("has no video in it", where=loaded.name, fix=FORMATS)
    if container.format.name.endswith(IMAGE_FORMATS):
        raise MediaError("is an image, not a video", where=loaded.name, fix="pass it as an image")
    known = known_tracks(tracks)
    if not known:
        raise MediaError("has video of an unknown codec", where=loaded.name, fix=FORMATS)
    return known


def _choose(container: Any, candidates: list[Any], guard: ReadGuard, name: str) -> int:
    """Index of the track to show; reads packets until every track has two."""
    counts = {track.index: 0 for track in candidates}
    for packet in read_packets(container, candidates, Damage(), guard, name):
        counts[packet.stream_index] += 1
        if min(counts.values()) > 1:
            break

    def preference(track: Any) -> tuple[bool, bool, int]:
        default = bool(int(track.disposition) & DEFAULT_TRACK)
        return counts[track.index] > 1, default, track.width * track.height

    chosen: int = max(candidates, key=preference).index
    return chosen


def _stream_codec(container: Any, track: Any, guard: ReadGuard, name: str) -> str | None:
    """The codec of a stream with start codes that the container calls raw video."""
    packet = next(read_packets(container, track, Damage(), guard, name), None)
    head = b"" if packet is None else bytes(memoryview(packet)[:5])
    if len(head) == 5 and head.startswith(b"\0\0\0\1"):
        return "hevc" if head[4] in HEVC_UNITS else "h264" if head[4] in H264_UNITS else None
    return None


def _prepare(container: Any, stream: Any, codec: str | None, loaded: Loaded, options: MediaOptions) -> VideoTrack:
    import av

    check_size(stream, options, loaded.name)
    decoder = stream.codec_context if codec is None else av.CodecContext.create(codec, "r")
    decoder.thread_type = "AUTO"
    # A frame may be larger than the header says. FFmpeg counts its padding too, hence the factor.
    decoder.options = {"max_pixels": str(2 * options.policy.max_pixels)}
    form = container.format.name
    guessed = form in GUESSED_STAMPS or (
        form.startswith("matroska") and bool(stream.codec_context.codec_tag.strip("\0"))
    )
    stamped = (
        codec is None
        and bool(stream.time_base)
        and not container.format.flags & NO_TIME_STAMPS
        and not (guessed and stream.codec_context.has_b_frames)
    )
    return VideoTrack(container, stream, decoder, loaded.name, stamped)


def read_stamps(track: VideoTrack, damage: Damage, guard: ReadGuard) -> list[Packet]:
    """All packets of a track in the order of the file, undecoded."""
    return [
        Packet(packet.pts, packet.dts, packet.size, packet.is_keyframe, packet.is_discard)
        for packet in track.packets(damage, guard)
    ]


def cut_short(track: VideoTrack, count: int) -> bool:
    """Whether a file whose header indexes every frame has fewer packets than that."""
    indexed = "mp4" in track.container.format.name
    # A header counts hidden and doubled frames too; a few fewer are no sign of damage.
    return indexed and count < 0.98 * int(track.stream.frames or 0) - 2
