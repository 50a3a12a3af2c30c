"""Video: which frames are picked, odd files, and the errors."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from vita.errors import MediaError
from vita.media import video_display
from vita.media.audio import load_audio
from vita.media.video import load_video, pick_frames
from vita.types import Audio, MediaOptions, MediaPolicy, Video


def write(path: Path, seconds: float = 5, fps: int = 10, *, stamps: list[float] | None = None) -> Path:
    """A clip whose red value tells the time: 40 a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = 5
        times = stamps if stamps is not None else [k / fps for k in range(int(seconds * fps))]
        for time in times:
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[..., 0] = min(255, int(40 * time))
            pixels[:24, :, 2] = 255  # the upper half is blue
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = int(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def seconds_shown(image: Pillow.Image) -> float:
    """The time that the lower half's red tells."""
    return float(np.asarray(image)[30:, :, 0].mean()) / 40


def test_picks_of_the_reference(big_goldens: Path) -> None:
    data = json.loads((big_goldens / "tiny" / "video_frames.json").read_text())
    clips = [c for c in data["clips"] if "taken" in c]
    assert len(clips) >= 15
    for clip in clips:
        assert pick_frames(clip["fps"], clip["n_frames"]) == clip["taken"], clip


@given(st.floats(0.1, 240), st.integers(1, 100_000), st.integers(1, 32))
def test_picks_are_in_order_inside_and_not_too_many(fps: float, count: int, most: int) -> None:
    picks = pick_frames(fps, count, max_frames=most)
    assert picks == sorted(picks)
    assert picks[0] >= 0 and picks[-1] < count
    assert min(4, most) <= len(picks) <= max(most, 1)


def test_one_frame_a_second(tmp_path: Path) -> None:
    clip = load_video(Video(write(tmp_path / "a.mp4")))
    assert clip.n_frames == 50 and clip.fps == pytest.approx(10)
    assert [seconds_shown(f) for f in clip.frames] == pytest.approx([0, 1, 2, 3, 4], abs=0.15)


def test_fps_and_max_frames_and_a_stretch(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    assert len(load_video(Video(path, fps=2)).frames) == 10
    assert len(load_video(Video(path, fps=2, max_frames=6)).frames) == 6
    late = load_video(Video(path, start=2.0, end=4.0, fps=2))
    assert seconds_shown(late.frames[0]) == pytest.approx(2.0, abs=0.15)
    assert seconds_shown(late.frames[-1]) <= 4.1


def test_a_variable_rate_is_sampled_by_time(tmp_path: Path) -> None:
    # Many frames in the first second, then two a second: by number, the start would be over-represented.
    stamps = [k / 30 for k in range(30)] + [1 + k / 2 for k in range(10)]
    clip = load_video(Video(write(tmp_path / "vfr.mp4", stamps=stamps)))
    assert [seconds_shown(f) for f in clip.frames] == pytest.approx([0, 1, 2, 3, 4, 5][: len(clip.frames)], abs=0.3)


def test_short_clips_repeat_frames_as_trained(tmp_path: Path) -> None:
    assert len(load_video(Video(write(tmp_path / "s.mp4", seconds=1))).frames) == 4


def test_a_list_of_images_is_a_clip() -> None:
    images = [Pillow.new("RGB", (8, 8), (k, 0, 0)) for k in range(20)]
    assert len(load_video(Video(images)).frames) == 16
    assert [f.getpixel((0, 0))[0] for f in load_video(Video(images[:5])).frames] == [0, 1, 2, 3, 4]


def test_a_damaged_tail_is_used_as_far_as_it_goes_and_said(tmp_path: Path) -> None:
    data = write(tmp_path / "a.ts", seconds=8).read_bytes()
    broken = tmp_path / "broken.ts"
    broken.write_bytes(data[: len(data) * 6 // 10])
    clip = load_video(Video(broken))
    assert len(clip.frames) >= 4
    assert seconds_shown(clip.frames[0]) < 0.2


def test_errors_say_what_and_where(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_bytes(b"certainly not a video" * 20)
    headless = tmp_path / "half.mp4"
    headless.write_bytes(write(tmp_path / "a.mp4").read_bytes()[:600])
    audio = Path(__file__).parents[1] / "goldens" / "mini" / "inputs" / "fm22k.wav"
    for path, sentence in ((text, "not a video"), (headless, "damaged"), (audio, "only audio")):
        with pytest.raises(MediaError, match=sentence) as caught:
            load_video(Video(path))
        assert path.name in str(caught.value)
    with pytest.raises(MediaError, match="no frames"):
        load_video(Video([]))
    with pytest.raises(MediaError, match="no frames after 100 seconds, it lasts 5"):
        load_video(Video(tmp_path / "a.mp4", start=100.0))
    with pytest.raises(MediaError, match="64x48 pixels, more than"):
        load_video(Video(tmp_path / "a.mp4"), MediaOptions(policy=MediaPolicy(max_pixels=1000)))


@pytest.mark.parametrize("kind", ["a file", "animated", "images"])
def test_frames_that_would_fill_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    frames = [np.zeros((48, 64, 3), np.uint8)] * 5
    if kind == "animated":
        first, *others = map(Pillow.fromarray, np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3), np.uint8))
        first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=1000)
    name = tmp_path / ("a.webp" if kind == "animated" else "a.mp4")
    source = frames if kind == "images" else name if kind == "animated" else write(name)
    assert len(load_video(Video(source)).frames) == 5
    monkeypatch.setattr(video_display, "MAX_FRAMES_BYTES", 5 * 3 * 64 * 48 - 1)
    with pytest.raises(MediaError, match=r"5 frames of 64x48 pixels take 0\.0 GB of memory.*max_frames"):
        load_video(Video(source))


def test_a_video_without_audio_says_so(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no audio"):
        load_audio(Audio(write(tmp_path / "a.mp4"), from_video=True))
