"""Decoding audio files into blocks of samples, with libsndfile or FFmpeg."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vita.errors import MediaError
from vita.media.joined import last_granule, split_joined
from vita.media.pcm_header import correct_length
from vita.media.policy import ReadGuard
from vita.media.resample import Samples
from vita.media.source import Loaded

if TYPE_CHECKING:
    from vita.media.ffmpeg import Damage

BLOCK_SECONDS = 2  # decoded at a time: long audio never lies in memory with all its channels
BLOCK_VALUES = 1 << 22  # most samples of all channels decoded at a time
MAX_RATE = 50_000_000  # Hz; the fastest in use is DSD512, 22,579,200
FORMATS = "use wav, flac, mp3, ogg, m4a or webm"
# First bytes of the containers of uncompressed samples: WAV, AIFF, AU, CAF, Wave64. libsndfile reads them. FFmpeg reads
# all others, since libsndfile ends at the first damaged place, at the end of the first of several joined recordings and
# before the end of a FLAC of unknown length, and its MP3 decoder writes to standard error.
SNDFILE_HEADS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b".snd", b"dns.", b"caff", b"riff\x2e\x91\xcf\x11")
MP3_HEADS = (b"ID3", b"\xff")
COMPRESSED = ("ALAC", "MPEG", "VORBIS", "OPUS")  # subtypes inside those containers that FFmpeg reads instead
SAMPLE_BYTES = {
    "PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip
# Formats whose stamps count samples, so that a gap in them is a loss. Elsewhere a gap may be a pause.
COUNTED = ("flac", "ogg")
# FFmpeg's flag: the decoder trims nothing. It trims Vorbis wrongly where a file is one page.
SKIP_MANUAL = 1 << 29


@dataclass(frozen=True)
class Block:
    """A stretch of decoded audio: float32 `[channels, n]` at `rate` Hz."""

    samples: Samples
    rate: int


def decode_audio(
    loaded: Loaded, notes: list[str], check: Callable[[float], None], guard: ReadGuard, *, from_video: bool = False
) -> Iterator[Block]:
    """The audio of a file in blocks of one rate. The number of channels may change between blocks.

    Args:
        loaded: an audio or video file.
        notes: receives a sentence if a part could not be decoded.
        check: called with the length in seconds where it is certain before decoding; may raise.
        guard: deadline and cancel of the request.
        from_video: the file is a video, so libsndfile is not asked.

    Raises:
        MediaError: no audio in it, not a known format, nothing of it can be decoded, or the deadline has passed.
        Cancelled: the caller cancelled.
    """
    with loaded.open() as stream:
        head = stream.read(12)
    listed = head.startswith(SNDFILE_HEADS)
    if listed and not from_video:
        loaded = correct_length(loaded, notes)
        file = _open_soundfile(loaded)
        if file is not None:
            yield from _read_soundfile(file, loaded, check, guard)
            return
    try:
        yield from _read_ffmpeg(loaded, notes, guard)
    except MediaError as error:
        # Formats that only libsndfile knows (PVF, SDS, MAT …). MP3 never reaches it.
        file = None if listed or from_video or head.startswith(MP3_HEADS) else _open_soundfile(loaded)
        if file is None or not isinstance(error.__cause__, Exception):
            raise
        yield from _read_soundfile(file, loaded, check, guard)


class _Seekable:
    """A stream for libsndfile. A damaged header may lead before the start: the position then stays as it is."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.tell, self.read, self.close = stream.tell, stream.read, stream.close

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """An error in here would be written to standard error, since it cannot pass through C."""
        with suppress(OSError, ValueError, OverflowError):
            self._stream.seek(offset, whence)
        return self._stream.tell()


class _OpenFile:
    """A file that libsndfile has open, and the stream under it."""

    def __init__(self, file: Any, stream: _Seekable) -> None:
        self.file, self.stream = file, stream

    def close(self) -> None:
        self.file.close()
        self.stream.close()


def _open_soundfile(loaded: Loaded) -> _OpenFile | None:
    """None: not one of libsndfile's formats, or one that FFmpeg reads better."""
    import soundfile

    stream = _Seekable(loaded.open())
    try:
        file = soundfile.SoundFile(stream)
    except (soundfile.LibsndfileError, TypeError):
        stream.close()
        return None
    if file.subtype.startswith(COMPRESSED) or file.format in ("FLAC", "OGG", "MPEG"):
        file.close()
        stream.close()
        return None
    return _OpenFile(file, stream)


def _read_soundfile(
    opened: _OpenFile, loaded: Loaded, check: Callable[[float], None], guard: ReadGuard
) -> Iterator[Block]:
    import soundfile

    file = opened.file
    try:
        rate, channels = _checked_rate(int(file.samplerate), loaded.name), int(file.channels)
        needed = file.frames * channels * SAMPLE_BYTES.get(file.subtype, 0)
        if 0 < needed <= opened.stream.seek(0, 2):
            check(file.frames / rate)
        file.seek(0)
        frames = max(1, min(BLOCK_SECONDS * rate, BLOCK_VALUES // channels))
        while True:
            guard.check(loaded.name)
            data = file.read(frames=frames, dtype="float32", always_2d=True)
            if not len(data):
                return
            yield Block(np.ascontiguousarray(data.T), rate)
    except soundfile.LibsndfileError as error:
        raise MediaError("is a damaged audio file", where=loaded.name, fix=FORMATS) from error
    finally:
        opened.close()


def _checked_rate(rate: int, name: str) -> int:
    if not 1 <= rate <= MAX_RATE:
        raise MediaError(f"has a sample rate of {rate} Hz, which is not possible", where=name, fix="save it again")
    return rate


def _read_ffmpeg(loaded: Loaded, notes: list[str], guard: ReadGuard) -> Iterator[Block]:
    """The default audio track, or the first one, of every recording in the file."""
    from vita.media.ffmpeg import Damage

    damage = Damage()
    to_blocks = _Blocks(loaded.name)
    parts = split_joined(loaded, guard)
    for part in parts:
        try:
            yield from _read_part(part, to_blocks, damage, guard)
        except MediaError:
            guard.check(loaded.name)
            if part is parts[0]:
                raise
            damage.packets += 1
    yield from to_blocks.rest()
    if damage and to_blocks.count == 0:
        raise MediaError("is a damaged audio file", where=loaded.name, fix=FORMATS)
    if damage:
        notes.append(f"{loaded.name}: parts of it are damaged; the audio that could be decoded was used.")


def _read_part(part: Loaded, to_blocks: _Blocks, damage: Damage, guard: ReadGuard) -> Iterator[Block]:
    from vita.media.ffmpeg import decoded_frames, known_tracks, open_container, read_packets

    with open_container(part, "an audio file", FORMATS, guard) as container:
        if not container.streams.audio:
            raise MediaError("has no audio in it", where=part.name)
        tracks = known_tracks(container.streams.audio)
        if not tracks:
            raise MediaError("has audio of an unknown codec", where=part.name, fix=FORMATS)
        decoder = tracks[0].codec_context
        end = _ogg_samples(part, decoder) if len(container.streams) == 1 else None
        if decoder.name == "flac":
            decoder = _CheckedFlac(decoder, damage)
        untrimmed = decoder.name == "vorbis" and end is not None
        if untrimmed:
            decoder.flags2 |= SKIP_MANUAL
        gaps = _Gaps() if container.format.name in COUNTED else None
        count, last = 0, None
        packets = read_packets(container, tracks[0], damage, guard, part.name)
        frames = decoded_frames(packets, decoder, damage)
        if untrimmed:
            next(frames, None)  # the first packet only prepares the decoder
        for frame in frames:
            damage.gaps += gaps is not None and gaps.found_at(frame)
            yield from to_blocks(frame)
            count, last = count + frame.samples, frame
        # An encoder fills its last frame up.
        if last is not None and end is not None and 0 < count - end < last.samples:
            to_blocks.trim((count - end) / last.sample_rate)


def _ogg_samples(part: Loaded, decoder: Any) -> int | None:
    """Length that the last page of a Vorbis or Opus file states, in samples of one channel."""
    if decoder.name not in ("vorbis", "opus"):
        return None
    end = last_granule(part)
    if end is None or decoder.name == "vorbis":
        return end
    return end - int.from_bytes((decoder.extradata or b"")[10:12], "little")  # the encoder's delay, from OpusHead


class _CheckedFlac:
    """A FLAC decoder that compares checksums, and still gives what a damaged frame decodes to."""

    def __init__(self, decoder: Any, damage: Damage) -> None:
        import av

        self._lenient = av.CodecContext.create("flac", "r")
        self._lenient.extradata = decoder.extradata
        self.name, self._strict, self._damage = decoder.name, decoder, damage
        decoder.options = {"err_detect": "crccheck+explode"}

    def decode(self, packet: Any) -> list[Any]:
        """The frames of a packet, which do not depend on other packets."""
        import av

        if packet is None:
            return []
        try:
            frames: list[Any] = self._strict.decode(packet)
            # Where frames were damaged the parser hands on several of them as one packet without a duration.
            if len(frames) == 1:
                return frames
        except av.FFmpegError:
            pass
        frames = self._lenient.decode(packet)
        self._damage.gaps += 1
        return frames


class _Gaps:
    """Finds missing samples by the stamps of decoded frames, which in some formats count samples."""

    def __init__(self) -> None:
        self._next: float | None = None  # seconds at which the next frame is due

    def found_at(self, frame: Any) -> bool:
        """Whether samples are missing between the frame before and this one."""
        length = frame.samples / frame.sample_rate
        stamp = None if frame.pts is None or not frame.time_base else float(frame.pts * frame.time_base)
        due, self._next = self._next, (stamp if stamp is not None else self._next)
        if self._next is not None:
            self._next += length
        # A stamp that jumps back starts a joined recording.
        return due is not None and stamp is not None and stamp > due + 0.5 * length + 1e-3


class _Blocks:
    """Joins decoded frames of any sample format into blocks, all at the first frame's rate."""

    def __init__(self, name: str) -> None:
        self.count = 0  # samples given out, of one channel
        self._name = name
        self._rate = 0
        self._shape: tuple[int, str, str] | None = None
        self._resampler: Any = None
        self._parts: list[Samples] = []
        self._held = 0

    def __call__(self, frame: Any) -> Iterator[Block]:
        """The blocks that are complete once this frame is added."""
        import av

        # The decoder's rate can differ from the header's (HE-AAC doubles it), and a stream may change on the way.
        shape = (frame.sample_rate, frame.layout.name, frame.format.name)
        if shape != self._shape:
            yield from self.rest()
            self._rate = self._rate or _checked_rate(shape[0], self._name)
            # Interleaved: of planar frames with more than 8 channels PyAV reads past the end of the table of planes.
            self._resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=self._rate)
            self._shape = shape
        # Joined before this frame is added, so that the last frame can be trimmed.
        if self._held and (
            self._held >= BLOCK_SECONDS * self._rate or self._held * len(self._parts[-1]) > BLOCK_VALUES
        ):
            yield self._join()
        frame.pts = None  # stamps are of no use to the resampler
        self._add(self._resampler.resample(frame))

    def trim(self, seconds: float) -> None:
        """Drop the end of the last frame."""
        count = round(seconds * self._rate)
        if self._parts and 0 < count < self._parts[-1].shape[1]:
            self._parts[-1] = self._parts[-1][:, :-count]
            self._held -= count

    def rest(self) -> Iterator[Block]:
        """What is left at the end, or before the format changes."""
        if self._resampler is not None:
            self._add(self._resampler.resample(None))
            self._resampler = None
        if self._held:
            yield self._join()

    def _add(self, frames: list[Any]) -> None:
        for frame in frames:
            samples = frame.to_ndarray().reshape(frame.samples, -1).T  # [channels, n]
            self._parts.append(samples)
            self._held += samples.shape[1]

    def _join(self) -> Block:
        joined = np.concatenate(self._parts, axis=1)
        self._parts, self._held = [], 0
        self.count += joined.shape[1]
        return Block(joined, self._rate)
