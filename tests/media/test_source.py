"""Sources: what a value means, what the policy allows, and snapshots that later changes do not reach."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image as Pillow

import vita
from vita.errors import Cancelled, MediaError, RequestError, VitaError
from vita.media.audio import load_audio
from vita.media.image import load_image
from vita.media.policy import ReadGuard
from vita.media.source import DataUrl, Loaded, Stream, read_source, resolve_source, snapshot, snapshot_part
from vita.media.video import load_video
from vita.sources import Array, Bytes, FilePath, Url, describe_source
from vita.types import Audio, Image, MediaOptions, MediaPolicy, Video, user

RED = Pillow.new("RGB", (6, 4), (255, 0, 0))
CLOSED = MediaOptions(policy=MediaPolicy(allow_files=False, allow_urls=False))


def png(image: Pillow.Image = RED) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def read(loaded: Loaded) -> bytes:
    with loaded.open() as stream:
        return stream.read()


def limited(size: int) -> MediaOptions:
    return MediaOptions(policy=MediaPolicy(max_bytes=size))


MEANINGS: dict[type, list[object]] = {
    FilePath: ["a.png", "./http:/x", "C:\\a.png", "a:b.png", "~/a", Path("-"), "file:///etc/hosts", "FILE:/a",
               "file://localhost/a", FilePath(Path("a"))],
    Url: ["http://a/b", "HTTPS://a", Url("http://a")],
    DataUrl: ["data:,x", Url("DATA:,x")],
    Stream: ["-", io.BytesIO(b"x")],
    Bytes: [b"x", bytearray(b"x"), memoryview(b"x"), Bytes(b"x")],
    Array: [RED, np.zeros((2, 2), np.uint8), Array(RED)],
}  # fmt: skip


@pytest.mark.parametrize("kind", MEANINGS)
def test_every_value_means_one_thing(kind: type) -> None:
    for value in MEANINGS[kind]:
        assert type(resolve_source(value, "image")) is kind, value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url", ["ftp://a/b.png", "rtsp://cam/1", "s3://b/k", "javascript://x", "gopher://x", "x+y://z"]
)
def test_other_schemes_are_refused_in_one_sentence(url: str) -> None:
    for value in (url, Url(url), url.upper()):
        with pytest.raises(MediaError, match="not a URL that can be read"):
            load_image(value)


def test_a_file_url_names_a_file_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    path.write_bytes(png())
    assert load_image(path.as_uri()).size == (6, 4)
    with pytest.raises(MediaError, match="another machine"):
        load_image("file://elsewhere/a.png")
    for text in ("plain", "a/b.png", "file"):
        with pytest.raises(MediaError, match="not a URL"):
            load_image(Url(text))


def test_a_policy_without_files_reads_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(png())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(png())))
    for value in (str(path), path, FilePath(path), path.as_uri(), Url(path.as_uri()), "-", "~", "/etc/passwd"):
        for check in (read_source, snapshot):
            with pytest.raises(MediaError, match="not read here"):
                check(value, CLOSED, "image")  # type: ignore[operator]
        with pytest.raises(MediaError, match="not read here"):
            load_image(value, CLOSED)
    with pytest.raises(MediaError, match="not read here"):
        snapshot([png(), path], CLOSED, "video")
    assert load_image("-").size == (6, 4), "nothing was taken from standard input before"


def test_a_policy_without_urls_fetches_none_but_decodes_data_urls() -> None:
    for value in ("http://127.0.0.1:9/a.png", Url("https://example.com/a.png")):
        with pytest.raises(MediaError, match="not fetched here"):
            load_image(value, CLOSED)
    assert load_image("data:image/png;base64," + base64.b64encode(png()).decode(), CLOSED).size == (6, 4)
    for value in (png(), io.BytesIO(png()), RED, np.asarray(RED), Bytes(png())):
        assert load_image(value, CLOSED).size == (6, 4)


SIZED: dict[str, Callable[[bytes, Path], object]] = {
    "file": lambda data, path: path,
    "bytes": lambda data, path: data,
    "bytearray": lambda data, path: bytearray(data),
    "view": lambda data, path: memoryview(data),
    "stream": lambda data, path: io.BytesIO(data),
    "base64": lambda data, path: "data:;base64," + base64.b64encode(data).decode(),
    "wrapped": lambda data, path: "data:;base64," + base64.encodebytes(data).decode(),
    "percent": lambda data, path: "data:," + "".join(f"%{b:02x}" for b in data),
}


@pytest.mark.parametrize("how", SIZED)
def test_the_size_limit_is_exact(how: str, tmp_path: Path) -> None:
    for size in (1, 2, 3, 100, 101, 5000):
        data = bytes(k % 251 for k in range(size))
        path = tmp_path / "a"
        path.write_bytes(data)
        assert read(read_source(SIZED[how](data, path), limited(size), "image")) == data  # type: ignore[arg-type]
        if size > 1:
            with pytest.raises(MediaError, match="bytes"):
                read_source(SIZED[how](data, path), limited(size - 1), "image")  # type: ignore[arg-type]


def test_a_data_url_is_measured_before_it_is_decoded() -> None:
    class Huge(str):
        """Refuses to be copied."""

        def __getitem__(self, key: object) -> str:
            part = str.__getitem__(self, key)  # type: ignore[index]
            assert len(part) < 10_000, "decoded before it was measured"
            return part

    for head in ("data:;base64,", "data:,"):
        with pytest.raises(MediaError, match="limit of 1,000 bytes"):
            read_source(Huge(head + "A" * 3_000_000), limited(1000), "image")


@given(
    st.binary(min_size=1, max_size=300), st.sampled_from(["", "image/png", "text/plain;charset=utf-8"]), st.booleans()
)
def test_a_data_url_gives_its_bytes(data: bytes, media_type: str, in_base64: bool) -> None:
    body = base64.b64encode(data).decode() if in_base64 else "".join(f"%{b:02X}" for b in data)
    url = f"data:{media_type}{';base64' if in_base64 else ''},{body}"
    assert read(read_source(url, MediaOptions(), "image")) == data


@given(st.text(max_size=60), st.sampled_from(["", "data:", "data:;base64,", "file:", "http://", "file:///", "-", "~"]))
@example("[", "http://")
@example("\0", "")
@example("%00", "file:///")
@example("\ud800", "data:,")
@example("é", "data:;base64,")
@example("x" * 5000, "")
def test_any_text_is_read_or_refused_in_one_line(text: str, head: str) -> None:
    options = MediaOptions(policy=MediaPolicy(allow_urls=False, max_bytes=1000))
    if head + text != "-":
        with contextlib.suppress(MediaError):
            read_source(head + text, options, "image")
    name = describe_source(head + text)
    assert "\n" not in name and len(name) <= 120
    name.encode()


def test_names_say_where_and_keep_secrets() -> None:
    assert describe_source("https://joe:secret@a.b/c?d") == "https://a.b/c?d"
    assert describe_source("https://a:b@c@d/") == "https://d/"
    assert describe_source("http://a/b@c") == "http://a/b@c"
    assert describe_source("data:image/png;base64,SECRET") == "the data: URL"
    assert (
        describe_source(b"1234") == "<4 bytes>" and describe_source(memoryview(np.zeros(9, np.uint16))) == "<18 bytes>"
    )
    assert describe_source(Bytes(b"12", "a.png")) == "a.png"
    assert describe_source("two\nlines.png") == "two�lines.png"
    assert describe_source(os.fsdecode(b"caf\xe9.png")) == "caf�.png"
    assert describe_source("Screenshot 4\u202fPM.png") == "Screenshot 4\u202fPM.png"


# The types of the API.


@pytest.mark.parametrize("value", ["logo.png", Path("logo.png"), b"x", bytearray(b"x"), memoryview(b"x"), RED,
                                   np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), io.BytesIO(b"x"),
                                   Url("http://a"), FilePath(Path("a")), Bytes(b"x"), Array(RED),
                                   Image("a")])  # fmt: skip
def test_one_source_counts_as_a_list_of_one(value: object) -> None:
    wanted = value if isinstance(value, Image) else Image(value)  # type: ignore[arg-type]
    for message in (user(images=value), user(image=value), user(images=[value])):  # type: ignore[arg-type]
        assert len(message.parts) == 1
        part = message.parts[0]
        assert isinstance(part, Image) and part.source is wanted.source


def test_stacks_and_lists_of_frames_keep_their_meaning() -> None:
    stack = np.zeros((3, 4, 4, 3), np.uint8)
    assert len(user(images=stack).parts) == 3
    assert len(user(videos=stack).parts) == 1
    assert len(user(videos="a.mp4").parts) == 1
    assert len(user(video=[RED, RED]).parts) == 1
    assert len(user(videos=[[RED, RED], "a.mp4", Video("b.mp4")]).parts) == 3
    assert len(user(audios=np.zeros((100, 2), np.float32)).parts) == 1
    assert len(user(audios=np.zeros(100, np.float32)).parts) == 1
    assert len(user(images=(v for v in ("a", "b"))).parts) == 2
    assert user("x", images=None, videos=None, audios=None).parts == user("x").parts  # type: ignore[arg-type]


WRONG: dict[str, Callable[[], object]] = {
    "number": lambda: user(image=3),  # type: ignore[arg-type]
    "list as image": lambda: user(image=["a.png"]),  # type: ignore[arg-type]
    "numbers in images": lambda: user(images=[1, 2]),  # type: ignore[list-item]
    "number as images": lambda: user(images=5),  # type: ignore[arg-type]
    "dict": lambda: user(images={"a.png": 1}),
    "message as images": lambda: user(images=user("x")),  # type: ignore[arg-type]
    "None inside": lambda: user(images=[None]),  # type: ignore[list-item]
    "torch": lambda: user(image=torch.zeros(3, 4, 4)),  # type: ignore[arg-type]
    "torch as images": lambda: user(images=torch.zeros(2, 4, 4, 3)),
    "frames": lambda: user(video=[RED, 7]),  # type: ignore[list-item]
    "audio": lambda: user(audio=[0.1, 0.2]),  # type: ignore[arg-type]
    "question": lambda: user(b"what"),  # type: ignore[arg-type]
    "fps": lambda: Video("a.mp4", fps="1"),  # type: ignore[arg-type]
    "max_frames": lambda: Video("a.mp4", max_frames=2.5),  # type: ignore[arg-type]
    "start": lambda: Video("a.mp4", start="0"),  # type: ignore[arg-type]
    "rate": lambda: Audio(np.zeros(9, np.int16), sample_rate="16000"),  # type: ignore[arg-type]
    "source": lambda: Image(None),  # type: ignore[arg-type]
    "max_bytes": lambda: MediaPolicy(max_bytes=0),
    "deadline": lambda: MediaPolicy(deadline=None),  # type: ignore[arg-type]
    "deadline that no clock reaches": lambda: MediaPolicy(deadline=10**400),
    "nan": lambda: MediaPolicy(max_seconds=float("nan")),
    "domains": lambda: MediaPolicy(domains=("http://a/b",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_type_is_one_sentence_at_the_call(case: str) -> None:
    with pytest.raises(RequestError) as caught:
        WRONG[case]()
    assert "\n" not in str(caught.value)
    if "torch" in case:
        assert "tensor.cpu().numpy()" in str(caught.value)


def test_a_wrong_type_reaches_no_reader() -> None:
    for value in (3, None, {}, torch.zeros(2, 2), object(), ["a"]):
        with pytest.raises(VitaError):
            load_image(value)  # type: ignore[arg-type]


# Snapshots.


def test_a_snapshot_outlives_every_change(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    path.write_bytes(png())
    array, image, buffer = np.asarray(RED).copy(), RED.copy(), bytearray(png())
    lazy = Pillow.open(io.BytesIO(png()))
    stream = io.BytesIO(png())
    sources = [path, str(path), path.as_uri(), FilePath(path), array, image, Array(array), buffer, memoryview(buffer),
               stream, lazy, png(), "data:;base64," + base64.b64encode(png()).decode()]  # fmt: skip
    options = MediaOptions()
    copies = [snapshot(source, options, "image") for source in sources]
    stream.seek(0)
    frames = snapshot([path, array, image, buffer, stream], options, "video")
    path.unlink()
    array[:], buffer[:] = 9, bytes(len(buffer))
    image.paste("blue", (0, 0, 6, 4))
    assert isinstance(frames, tuple) and len(frames) == 5
    for copy in (*copies, *frames):
        for _ in range(2):  # and it can be read again
            assert load_image(copy).getpixel((0, 0)) == (255, 0, 0)  # type: ignore[arg-type]


def test_a_snapshot_obeys_the_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    with pytest.raises(MediaError, match="limit of 10 bytes"):
        snapshot(path, limited(10), "image")
    with pytest.raises(MediaError, match="million pixels"):
        snapshot(RED, MediaOptions(policy=MediaPolicy(max_pixels=10)), "image")
    with pytest.raises(Cancelled):
        snapshot([path], MediaOptions(), "video", ReadGuard(cancelled=lambda: True))
    sound = Audio(np.zeros(5, np.int16), 16000, from_video=True)
    copy = snapshot_part(sound, MediaOptions())
    assert isinstance(copy, Audio) and copy.sample_rate == 16000 and copy.from_video
    assert isinstance(copy.source, Array) and copy.source.values is not sound.source


def test_every_reader_takes_a_snapshot() -> None:
    samples = np.linspace(-1, 1, 4000, dtype=np.float32)
    audio = snapshot_part(Audio(samples, 16000), MediaOptions())
    assert isinstance(audio, Audio) and isinstance(audio.source, Array)
    assert np.array_equal(load_audio(audio).samples, load_audio(Audio(samples, 16000)).samples)
    stack = np.stack([np.full((8, 8, 3), 60 * k, np.uint8) for k in range(4)])
    for source in (stack, list(stack), [Pillow.fromarray(frame) for frame in stack]):
        video = snapshot_part(Video(source), MediaOptions())
        assert isinstance(video, Video)
        assert [f.getpixel((0, 0)) for f in load_video(video).frames] == [(60 * k,) * 3 for k in range(4)]


def test_a_conversation_keeps_what_was_shown(mini_model: vita.Vita, tmp_path: Path) -> None:
    short = vita.SamplingParams(max_tokens=4)
    path = tmp_path / "frame.png"
    array = np.full((64, 64, 3), 40, np.uint8)
    stream = io.BytesIO(png(Pillow.new("RGB", (64, 64), (0, 200, 0))))

    def talk(spoil: bool) -> list[int]:
        path.write_bytes(png(Pillow.new("RGB", (64, 64), (200, 0, 0))))
        array[:] = 40
        stream.seek(0)
        chat = mini_model.chat()
        first = user("What?", images=[path, array], video=[array, stream])
        vita.Result.collect(chat.send(first, short))
        if spoil:
            path.unlink()
            array[:] = 250
        return vita.Result.collect(chat.send(user("And now?"), short)).token_ids

    assert talk(spoil=True) == talk(spoil=False)


def test_a_pipe_is_read_and_a_text_stream_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(png()))
    writer.start()
    assert load_image(fifo).size == (6, 4)
    writer.join()
    with pytest.raises(MediaError, match="text stream"):
        load_image(io.StringIO("x"))  # type: ignore[arg-type]
    closed = io.BytesIO(png())
    closed.close()
    with pytest.raises(MediaError, match="read to its end"):
        load_image(closed)


def test_types_cost_no_import() -> None:
    check = "import sys, vita.types; print([m for m in ('numpy', 'PIL', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
