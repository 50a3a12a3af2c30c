"""Video files whose header or time stamps are wrong, that were joined, or that hold several tracks."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tests.clips import SECOND, make_clip, numbered, numbers_of

from vita.errors import Cancelled, MediaError
from vita.media.policy import ReadGuard
from vita.media.video import load_video
from vita.types import MediaOptions, MediaPolicy, Video

INPUTS = Path(__file__).parent / "inputs"
REORDERED = {"bf": "2", "g": "50"}
MILLISECONDS = Fraction(1, 1000)


# --- containers without times of display ---------------------------------------------------------------------------

AVI: dict[str, Callable[[], bytes]] = {
    "h264, many B-frames": lambda: (INPUTS / "avi_h264_g200.avi").read_bytes(),
    "h264": lambda: make_clip("avi", "libx264", options=REORDERED),
    "h264, no B-frames": lambda: make_clip("avi", "libx264", options={"bf": "0"}),
    "hevc without a tag": lambda: (INPUTS / "avi_hevc.avi").read_bytes(),
    "mpeg4": lambda: make_clip("avi", "mpeg4", options={"bf": "2"}),
    "mpeg4, packed": lambda: (INPUTS / "avi_packed.avi").read_bytes(),
    "mpeg2": lambda: make_clip("avi", "mpeg2video", options={"bf": "2"}),
    "mjpeg": lambda: make_clip("avi", "mjpeg", pix_fmt="yuvj420p"),
    "video for windows in matroska": lambda: make_clip(
        "matroska", "mpeg4", options={"bf": "2"}, codec_tag="XVID", container_options={"allow_raw_vfw": "1"}
    ),
}


@pytest.mark.parametrize("name", AVI)
def test_reordered_frames_without_times_of_display(name: str) -> None:
    clip = load_video(Video(AVI[name]()))
    assert numbers_of(clip.frames) == SECOND and clip.notes == ()
    assert clip.times == pytest.approx(range(8), abs=0.05)


@pytest.mark.parametrize("second", [0.5, 3.0, 7.5])
def test_a_stretch_of_an_avi_with_reordered_frames(second: float) -> None:
    clip = load_video(Video(AVI["h264"](), start=second + 0.01, end=second + 0.01, max_frames=1))
    assert numbers_of(clip.frames) == [int(second * 25)]


@pytest.mark.parametrize(
    ("form", "codec", "options"),
    [
        ("mpeg1video", "mpeg1video", {}), ("mpeg1video", "mpeg1video", {"bf": "2"}), ("mpeg", "mpeg1video", {}),
        ("mpeg", "mpeg1video", {"bf": "2"}), ("mpeg", "mpeg2video", {"bf": "2"}), ("h264", "libx264", REORDERED),
        ("mp4", "libx264", REORDERED), ("mpegts", "libx264", REORDERED),
        ("mp4", "libx264", {"x264-params": "open-gop=1:keyint=25:bframes=3"}),
    ],
)  # fmt: skip
def test_every_frame_is_found_by_its_time(form: str, codec: str, options: dict[str, str]) -> None:
    data = make_clip(form, codec, options=options)
    assert numbers_of(load_video(Video(data)).frames) == SECOND
    for number in range(5, 200, 31):
        second = number / 25 + 0.02
        assert numbers_of(load_video(Video(data, start=second, end=second, max_frames=1)).frames) == [number]


# --- frame rates that the header states wrongly ---------------------------------------------------------------------


def with_matroska_duration(nanoseconds: int) -> bytes:
    data = bytearray(make_clip("matroska", "libx264", options=REORDERED))
    place = data.index(b"\x23\xe3\x83")  # DefaultDuration
    size = data[place + 3] & 0x7F
    data[place + 4 : place + 4 + size] = nanoseconds.to_bytes(size, "big")
    return bytes(data)


def with_flv_rate(rate: float) -> bytes:
    data = bytearray(make_clip("flv", "libx264", options=REORDERED))
    place = data.index(b"framerate") + len(b"framerate")
    data[place + 1 : place + 9] = struct.pack(">d", rate)
    return bytes(data)


@pytest.mark.parametrize("rate", [90_000, 1000, 120, 5, 1, 0.25])
@pytest.mark.parametrize("make", [lambda r: with_matroska_duration(int(1e9 / r)), with_flv_rate], ids=["mkv", "flv"])
def test_the_stated_frame_rate_does_not_matter(make: Callable[[float], bytes], rate: float) -> None:
    clip = load_video(Video(make(rate)))
    assert numbers_of(clip.frames) == SECOND and clip.notes == ()
    assert clip.fps == pytest.approx(25, rel=0.01)


def test_the_reference_takes_the_stated_frame_rate() -> None:
    clip = load_video(Video(with_matroska_duration(1_000_000_000 // 50)), MediaOptions(reference=True))
    assert numbers_of(clip.frames) == [0, 50, 100, 150]


# --- joined recordings ----------------------------------------------------------------------------------------------

JOINED = [
    ("mpegts", "libx264", REORDERED), ("mpeg", "mpeg2video", {"bf": "2"}), ("vob", "mpeg2video", {"bf": "2"}),
    ("mpeg", "mpeg1video", {"bf": "2"}), ("webm", "libvpx", {}), ("matroska", "libx264", REORDERED),
    ("ogg", "libvpx", {}), ("h264", "libx264", REORDERED),
]  # fmt: skip


@pytest.mark.parametrize(("form", "codec", "options"), JOINED)
def test_joined_recordings_are_seen_to_the_end(form: str, codec: str, options: dict[str, str]) -> None:
    first = make_clip(form, codec, range(150), options=options)
    second = make_clip(form, codec, range(1000, 1100), options=options)
    clip = load_video(Video(first + second))
    assert clip.n_frames == 250 and clip.notes == ()
    assert numbers_of(clip.frames) == [0, 25, 50, 75, 100, 125, 1000, 1025, 1050, 1075]
    assert clip.times == pytest.approx(range(10), abs=0.2)
    late = load_video(Video(first + second, start=9.0, max_frames=1))
    assert abs(numbers_of(late.frames)[0] - 1075) <= 2


def test_a_short_part_after_a_long_one() -> None:
    parts = [make_clip("mpegts", "libx264", range(k * 1000, k * 1000 + 50), options=REORDERED) for k in range(4)]
    clip = load_video(Video(b"".join(parts)))
    assert clip.n_frames == 200
    assert numbers_of(clip.frames) == [0, 25, 1000, 1025, 2000, 2025, 3000, 3025]


def test_ogg_tracks_that_begin_later_are_passed_over() -> None:
    video = make_clip("ogg", "libvpx")
    out = io.BytesIO()
    with av.open(out, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="flt", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = load_video(Video(video + out.getvalue()))
    assert numbers_of(clip.frames) == SECOND


# --- stamps and rates beyond reason ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["matroska", "nut"])
@pytest.mark.parametrize("place", [100, 199])
@pytest.mark.parametrize("jump", [10**8, 10**9, 4 * 10**15])
def test_stamps_far_in_the_future_cost_nothing(form: str, place: int, jump: int) -> None:
    stamps = [40 * k + (jump if k >= place else 0) for k in range(200)]
    data = make_clip(form, "libx264", stamps=stamps, time_base=MILLISECONDS, options={"bf": "0"})
    clip = load_video(Video(data))
    assert numbers_of(clip.frames) == SECOND and clip.n_frames == 200
    assert clip.times == pytest.approx(range(8), abs=0.05)


@pytest.mark.parametrize("fps", [1e6, 1e9, 1e300])
@pytest.mark.parametrize("varying", [False, True])
def test_absurd_rates_of_sampling_cost_nothing(fps: float, varying: bool) -> None:
    stamps = [40 * k + (500 * (k // 50) if varying else 0) for k in range(200)]
    data = make_clip("matroska", "libx264", stamps=stamps, time_base=MILLISECONDS, options={"bf": "0"})
    clip = load_video(Video(data, fps=fps))
    assert len(clip.frames) == 16 and clip.frames[0] is not clip.frames[1]
    assert numbers_of(load_video(Video(data, fps=1 / fps)).frames)[0] == 0


def test_a_varying_rate_is_sampled_by_time() -> None:
    stamps = [20 * k if k < 100 else 2000 + 500 * (k - 100) for k in range(110)]
    data = make_clip("matroska", "libx264", range(110), stamps=stamps, time_base=MILLISECONDS, options={"bf": "0"})
    clip = load_video(Video(data))
    assert numbers_of(clip.frames) == [0, 50, 100, 102, 104, 106, 108]


# --- mirrors, rotation, pixel aspect ratio, transparency ------------------------------------------------------------

ONE = 65536
MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "as it is": ((ONE, 0, 0, ONE), lambda x: x),
    "mirrored": ((-ONE, 0, 0, ONE), lambda x: x[:, ::-1]),
    "upside down": ((ONE, 0, 0, -ONE), lambda x: x[::-1]),
    "half turn": ((-ONE, 0, 0, -ONE), lambda x: x[::-1, ::-1]),
    "clockwise": ((0, ONE, -ONE, 0), lambda x: np.rot90(x, -1)),
    "counter-clockwise": ((0, -ONE, ONE, 0), lambda x: np.rot90(x, 1)),
    "transposed": ((0, ONE, ONE, 0), lambda x: np.swapaxes(x, 0, 1)),
    "transversed": ((0, -ONE, -ONE, 0), lambda x: np.swapaxes(x[::-1, ::-1], 0, 1)),
    "all zero": ((0, 0, 0, 0), lambda x: x),
    "singular": ((ONE, ONE, ONE, ONE), lambda x: x),
}


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices_are_applied(name: str) -> None:
    (a, b, c, d), shown = MATRICES[name]
    data = make_clip("mp4", "libx264", range(4), matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30], options={"crf": "1"})
    frame = np.asarray(load_video(Video(data)).frames[0]).astype(int)
    wanted = shown(numbered(0)).astype(int)
    assert frame.shape == wanted.shape and np.abs(frame - wanted).mean() < 12
    flat = load_video(Video(data), MediaOptions(reference=True)).frames[0]
    assert np.abs(np.asarray(flat).astype(int) - numbered(0)).mean() < 12


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(Fraction(4, 3), (213, 96)), (Fraction(8, 9), (142, 96)), (Fraction(1, 2), (80, 96)), (Fraction(1), (160, 96)),
     (Fraction(500, 1), (160, 96))],
)  # fmt: skip
@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_pixels_that_are_not_square_are_shown_in_their_shape(
    form: str, aspect: Fraction, size: tuple[int, int]
) -> None:
    data = make_clip(form, "libx264", range(4), aspect=aspect)
    clip = load_video(Video(data))
    assert clip.frames[0].size == size and clip.n_frames == 4
    assert load_video(Video(data), MediaOptions(reference=True)).frames[0].size == (160, 96)


def test_pixel_aspect_ratio_and_rotation_together() -> None:
    data = make_clip("mp4", "libx264", range(4), aspect=Fraction(2), matrix=[0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30])
    assert load_video(Video(data)).frames[0].size == (96, 320)


def test_a_stretched_frame_keeps_the_pixel_limit() -> None:
    data = make_clip("mp4", "libx264", range(4), aspect=Fraction(4))
    clip = load_video(Video(data), MediaOptions(policy=MediaPolicy(max_pixels=160 * 96)))
    assert clip.frames[0].size == (160, 24)


@pytest.mark.parametrize(
    ("form", "codec", "pix_fmt"),
    [
        ("mov", "qtrle", "argb"),
        ("mov", "prores_ks", "yuva444p10le"),
        ("matroska", "ffv1", "bgra"),
        ("mov", "png", "rgba"),
    ],
)
def test_transparent_video_is_put_on_white(form: str, codec: str, pix_fmt: str) -> None:
    alpha = np.full((96, 160), 255, np.uint8)
    alpha[:, :80], alpha[:, 80:100] = 0, 128
    frame = np.dstack([np.zeros((96, 160, 3), np.uint8), alpha])
    data = make_clip(form, codec, frames=[frame] * 4, pix_fmt=pix_fmt)
    row = np.asarray(load_video(Video(data)).frames[0])[48].astype(int)
    assert np.abs(row[5:75] - 255).max() < 6 and np.abs(row[105:155]).max() < 6
    assert np.abs(row[84:96] - 127).max() < 8
    black = load_video(Video(data), MediaOptions(reference=True)).frames[0]
    assert np.asarray(black)[48].max() < 6


# --- tracks ---------------------------------------------------------------------------------------------------------


def two_tracks(form: str, counts: tuple[int, int], default: int | None) -> bytes:
    """Two video tracks; frames of the second have numbers from 1000 on."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        streams = [container.add_stream("libx264", rate=25, options={"bf": "0"}) for _ in counts]
        for number, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
            stream.disposition = av.stream.Disposition.default if number == default else 0
        packets = []
        for number, (stream, count) in enumerate(zip(streams, counts, strict=True)):
            for k in range(count):
                frame = av.VideoFrame.from_ndarray(numbered(number * 1000 + k), format="rgb24")
                frame.pts = k
                packets += stream.encode(frame)
            packets += stream.encode()
        for packet in packets:
            container.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize("form", ["mp4", "matroska", "mov"])
@pytest.mark.parametrize("default", [0, 1, None])
def test_a_cover_is_not_the_film(form: str, default: int | None) -> None:
    assert numbers_of(load_video(Video(two_tracks(form, (1, 100), default))).frames) == [1000, 1025, 1050, 1075]
    assert numbers_of(load_video(Video(two_tracks(form, (100, 1), default))).frames) == [0, 25, 50, 75]


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_track_is_seen(default: int) -> None:
    clip = load_video(Video(two_tracks("matroska", (100, 100), default)))
    assert numbers_of(clip.frames) == [1000 * default + k for k in (0, 25, 50, 75)]


def test_a_stream_copy_with_an_edit_list_has_no_note() -> None:
    clip = load_video(Video(INPUTS / "trim_copy.mp4"))
    assert numbers_of(clip.frames) == [63, 88, 113, 138, 163, 188] and clip.notes == ()


def test_a_cut_mp4_is_said_to_break_off(tmp_path: Path) -> None:
    path = tmp_path / "index_first.mp4"
    with (
        av.open(io.BytesIO(make_clip("mp4", "libx264", options=REORDERED))) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    data = path.read_bytes()
    clip = load_video(Video(data[: len(data) * 2 // 3]))
    assert numbers_of(clip.frames)[:4] == [0, 25, 50, 75]
    assert "breaks off before its end" in clip.notes[0]


@pytest.mark.parametrize(
    ("form", "codec", "old", "new"),
    [("matroska", "libx264", b"V_MPEG4/ISO/AVC", b"V_MPEGX/XXX/XXX"), ("mp4", "libx264", b"avc1", b"zzzz"),
     ("avi", "mpeg4", b"FMP4", b"ZZZZ")],
)  # fmt: skip
def test_an_unknown_codec_is_one_sentence(form: str, codec: str, old: bytes, new: bytes) -> None:
    data = make_clip(form, codec, range(10)).replace(old, new)
    with pytest.raises(MediaError, match=r"unknown codec|in a known format|no frame that can be decoded"):
        load_video(Video(data))


# --- deadline and cancel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["h264", "mpeg2"])
def test_reading_ends_at_the_deadline_and_on_cancel(name: str) -> None:
    data = AVI[name]()
    with pytest.raises(MediaError, match="took too long to read"):
        load_video(Video(data), guard=ReadGuard(until=0.0))
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 50

    with pytest.raises(Cancelled):
        load_video(Video(data), guard=ReadGuard(cancelled=cancelled))
    with pytest.raises(MediaError, match="took too long to read"):
        load_video(Video([numbered(0)] * 4), guard=ReadGuard(until=0.0))
