"""Media files for the tests of the command line."""

from __future__ import annotations

import wave
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good file of each kind, and many bad ones."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (50, 80, 3), np.uint8)).save(folder / "good.png")
    with wave.open(str(folder / "good.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes(rng.normal(0, 2000, 16000).astype("<i2").tobytes())
    make_video(folder / "good.mp4")
    whole = (folder / "good.png").read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_bytes(b"this is no picture at all\n" * 40)
    (folder / "noise.wav").write_bytes(rng.bytes(4000))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "noise.mp4").write_bytes(rng.bytes(4000))
    (folder / "bomb.png").write_bytes(bomb(60_000, 60_000))
    header = (folder / "good.wav").read_bytes()[:44]
    (folder / "headless.wav").write_bytes(header)
    return folder


def bomb(width: int, height: int) -> bytes:
    """A small file whose header says that it is a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\x00\x00\x00")
    return head + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")


def make_video(file: Path) -> None:
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number * 20, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
