"""PyAV containers: opening, choosing a track, reading packets and frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import av

from vita.errors import MediaError
from vita.media.policy import UNGUARDED, ReadGuard
from vita.media.source import Loaded

# Playlists (HLS, concat) name other files and addresses, which FFmpeg would open: an untrusted file could read this
# machine's files or send requests to its network. No protocol of this name exists, so nothing is opened.
ISOLATED = {"protocol_whitelist": "none"}
DEFAULT_TRACK = 0x1  # FFmpeg's disposition of the track to play
# What PyAV raises while it reads or decodes a damaged file.
READ_ERRORS = (av.FFmpegError, EOFError)
# Headers that stand among the packets where recordings were joined. A decoder refuses them; nothing is lost with them.
HEADERS = (
    b"ID3", b"TAG", b"APETAG", b"fLaC", b"OpusHead", b"OpusTags", b"Speex   ", b"\x7fFLAC", b"BBCD",
    b"\x01vorbis", b"\x03vorbis", b"\x05vorbis", b"\x80theora", b"\x81theora", b"\x82theora",
)  # fmt: skip


@contextmanager
def open_container(loaded: Loaded, kind: str, formats: str, guard: ReadGuard = UNGUARDED) -> Iterator[Any]:
    """An open PyAV container. FFmpeg's errors inside the block become one sentence.

    Args:
        loaded: the file.
        kind: "a video" or "an audio file", for the sentence.
        formats: what to use instead, for the sentence.
        guard: deadline and cancel of the request.

    Raises:
        MediaError: not such a file, damaged beyond reading, or the deadline has passed.
        Cancelled: the caller cancelled.
    """
    guard.check(loaded.name)
    try:
        with loaded.open() as stream, av.open(stream, metadata_errors="ignore", options=ISOLATED) as container:
            yield container
    except (*READ_ERRORS, ValueError, OSError) as error:
        raise MediaError(f"is not {kind} in a known format, or is damaged", where=loaded.name, fix=formats) from error


def known_tracks(tracks: Sequence[Any]) -> list[Any]:
    """The tracks that FFmpeg has a decoder for, those marked as default first."""
    known = [track for track in tracks if track.codec_context is not None]
    return sorted(known, key=lambda track: not int(track.disposition) & DEFAULT_TRACK)


class Damage:
    """What could not be read or decoded, for the notes of a request."""

    def __init__(self) -> None:
        self.packets = 0  # that could not be decoded
        self.gaps = 0  # places where the stamps show that something is missing
        self.broken_off = False  # reading failed before the end of the file
        self.read = 0  # packets read, damaged or not
        self.incomplete = 0  # of these, what the container knows to be incomplete; they may decode all the same

    def __bool__(self) -> bool:
        return self.packets > 0 or self.gaps > 0 or self.broken_off


def read_packets(container: Any, track: Any, damage: Damage, guard: ReadGuard, name: str) -> Iterator[Any]:
    """The packets of a track from the current position, without the empty ones that PyAV adds at the end."""
    packets = container.demux(track)
    while True:
        guard.check(name)
        try:
            packet = next(packets)
        except (StopIteration, IndexError):  # IndexError: PyAV's end where tracks were added on the way
            return
        except READ_ERRORS:
            damage.broken_off = True
            return
        if packet.size:
            damage.read += 1
            damage.incomplete += packet.is_corrupt
            yield packet


def decoded_frames(packets: Iterator[Any], decoder: Any, damage: Damage) -> Iterator[Any]:
    """The frames in packets. Packets that cannot be decoded are counted and passed over."""
    for packet in packets:
        try:
            frames = decoder.decode(packet)
        except READ_ERRORS:
            if not bytes(memoryview(packet)[:8]).startswith(HEADERS):
                damage.packets += 1
            continue
        yield from frames
    with suppress(*READ_ERRORS):  # nothing was decoded, or the decoder keeps nothing back
        yield from decoder.decode(None)
