"""Mutated media give an answer or a one-sentence error, within 5 CPU seconds and 500 MB."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow
from tests.clips import make_clip

INPUTS = Path(__file__).parent / "inputs"
CHILD = Path(__file__).parent / "fuzz_child.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and memory are read from /proc")


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(2)
    pixels = np.add.outer(np.arange(40), np.arange(60))[..., None] * [1, 2, 3] + rng.integers(0, 30, (40, 60, 3))
    colour = Pillow.fromarray(pixels.astype(np.uint8))
    deep = Pillow.fromarray((pixels[..., 0] * 300).astype(np.uint16))
    cases: list[tuple[str, Pillow.Image, str, dict[str, object]]] = [
        ("rgb.png", colour, "PNG", {}), ("grey16.png", deep, "PNG", {}),
        ("key.png", colour, "PNG", {"transparency": (1, 2, 3)}), ("palette.png", colour.convert("P"), "PNG", {}),
        ("alpha.png", colour.convert("RGBA"), "PNG", {}), ("a.jpg", colour, "JPEG", {}),
        ("progressive.jpg", colour, "JPEG", {"progressive": True}), ("cmyk.jpg", colour.convert("CMYK"), "JPEG", {}),
        ("a.webp", colour, "WEBP", {}), ("a.gif", colour, "GIF", {}), ("a.bmp", colour, "BMP", {}),
        ("a.tif", colour, "TIFF", {}), ("lzw.tif", colour, "TIFF", {"compression": "tiff_lzw"}),
        ("deep.tif", deep, "TIFF", {}), ("a.ppm", colour, "PPM", {}), ("a.tga", colour, "TGA", {}),
        ("a.ico", colour, "ICO", {}), ("a.jp2", colour, "JPEG2000", {}), ("a.dds", colour, "DDS", {}),
        ("a.avif", colour, "AVIF", {}),
    ]  # fmt: skip
    for name, image, form, options in cases:
        image.save(folder / f"image-{name}", form, **options)
    frames = [colour.rotate(10 * k) for k in range(5)]
    for name, form in (("a.gif", "GIF"), ("a.png", "PNG"), ("a.webp", "WEBP")):
        frames[0].save(folder / f"video-{name}", form, save_all=True, append_images=frames[1:], duration=300)


def write_audio(folder: Path) -> None:
    t = np.arange(16000) / 16000
    samples = (0.4 * np.sin(2 * np.pi * (200 + 300 * t) * t)).astype(np.float32)
    stereo = np.stack([samples, -samples], axis=1)
    for name, form, subtype in (
        ("a.wav", "WAV", "PCM_16"), ("f.wav", "WAV", "FLOAT"), ("ima.wav", "WAV", "IMA_ADPCM"),
        ("a.aiff", "AIFF", None), ("a.au", "AU", "ULAW"), ("a.caf", "CAF", "PCM_24"), ("a.w64", "W64", None),
        ("a.rf64", "RF64", None),
        ("a.flac", "FLAC", None), ("a.ogg", "OGG", "VORBIS"), ("o.ogg", "OGG", "OPUS"), ("a.mp3", "MP3", None),
        ("alac.caf", "CAF", "ALAC_16"), ("a.voc", "VOC", None), ("a.mat", "MAT5", None),
    ):  # fmt: skip
        soundfile.write(folder / f"audio-{name}", stereo, 16000, format=form, subtype=subtype)
    for name, form, codec in (
        ("a.m4a", "mp4", "aac"), ("a.aac", "adts", "aac"), ("o.webm", "webm", "libopus"), ("a.ac3", "ac3", "ac3"),
        ("a.ts", "mpegts", "aac"), ("alac.m4a", "mp4", "alac"), ("a.mp2", "mp2", "mp2"),
    ):  # fmt: skip
        out = io.BytesIO()
        with av.open(out, "w", format=form) as container:
            stream = container.add_stream(codec, rate=48000, layout="mono")
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate = 48000
            resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48000, frame_size=stream.frame_size)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(piece))
            container.mux(stream.encode())
        (folder / f"audio-{name}").write_bytes(out.getvalue())


def write_video(folder: Path) -> None:
    reordered = {"bf": "2", "g": "12"}
    for name, form, codec, options, pix_fmt in (
        ("a.mp4", "mp4", "libx264", reordered, "yuv420p"), ("hevc.mp4", "mp4", "libx265", {}, "yuv420p"),
        ("a.avi", "avi", "libx264", reordered, "yuv420p"), ("m4.avi", "avi", "mpeg4", {"bf": "2"}, "yuv420p"),
        ("mj.avi", "avi", "mjpeg", {}, "yuvj420p"), ("a.mkv", "matroska", "libx264", reordered, "yuv420p"),
        ("a.webm", "webm", "libvpx", {}, "yuv420p"), ("a.ogg", "ogg", "libvpx", {}, "yuv420p"),
        ("a.ts", "mpegts", "libx264", reordered, "yuv420p"), ("a.mpg", "mpeg", "mpeg2video", {"bf": "2"}, "yuv420p"),
        ("a.m1v", "mpeg1video", "mpeg1video", {}, "yuv420p"), ("a.flv", "flv", "flv", {}, "yuv420p"),
        ("a.mov", "mov", "qtrle", {}, "argb"), ("a.nut", "nut", "mpeg4", {}, "yuv420p"),
        ("a.h264", "h264", "libx264", reordered, "yuv420p"), ("a.asf", "asf", "wmv2", {}, "yuv420p"),
    ):  # fmt: skip
        clip = make_clip(form, codec, range(30), options=options, pix_fmt=pix_fmt)
        (folder / f"video-{name}").write_bytes(clip)
    for path in INPUTS.iterdir():
        (folder / f"video-{path.name}").write_bytes(path.read_bytes())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_images(folder)
    write_audio(folder)
    write_video(folder)
    return folder


def run(corpus: Path, first: int, last: int) -> list[str]:
    """Faults of these cases; a case that ends the child is one."""
    # One arena: those of other threads would count as address space.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    faults = []
    while first < last:
        command = [sys.executable, str(CHILD), str(corpus), str(first), str(last)]
        child = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        lines = child.stdout.splitlines()
        faults += [line for line in lines if line.startswith("{")]
        if "Traceback" in child.stderr:
            faults.append(json.dumps({"from": first, "stderr": child.stderr[-500:]}))
        if child.returncode == 0:
            break
        numbers = [int(line) for line in lines if line.isdigit()]
        if not numbers:
            break  # it did not get to the first case; its error is in `faults`
        faults.append(json.dumps({"case": numbers[-1], "fault": f"ended the process: {child.returncode}"}))
        first = numbers[-1] + 1
    return faults


def test_mutated_media_are_answered_or_refused(corpus: Path) -> None:
    assert run(corpus, 0, 400) == []


@pytest.mark.slow
def test_twenty_thousand_mutated_media_are_answered_or_refused(corpus: Path) -> None:
    assert run(corpus, 400, 20_400) == []
