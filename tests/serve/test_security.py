"""What a hostile request gets: one sentence, no file, no inner address, no fault; and logs without content."""

from __future__ import annotations

import base64
import io
import logging
import socket
import threading
import wave
import zipfile
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from PIL import Image as Pillow

import vita
from tests.media.rebinding import change_address
from tests.serve.running import Running, running
from tests.serve.test_media_process import png_of
from vita.media.fetch import check_address
from vita.serve.options import Limits, ServeOptions

CHAT = "/v1/chat/completions"


def image(url: str) -> dict[str, object]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}


def data_url(data: bytes, kind: str = "application/octet-stream") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class Inner:
    """An HTTP server that must not be reached; counts its requests. With a location it redirects there."""

    def __init__(self, location: str | None = None) -> None:
        self.requests: list[str] = []
        inner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                inner.requests.append(self.path)
                self.send_response(200 if location is None else 302)
                if location is not None:
                    self.send_header("Location", location)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def inner() -> Iterator[Inner]:
    made = Inner()
    yield made
    made.server.shutdown()


@pytest.fixture
def fetching_in_threads(fetching: Running) -> Iterator[Running]:
    """The same, where media are fetched by this process, whose network a test can replace."""
    engine = fetching.server.model.engine
    engine.read_turn_with(None)
    yield fetching
    engine.read_turn_with(fetching.server.media.read_turn)


@pytest.fixture(scope="module")
def fetching(embedded: vita.Vita) -> Iterator[Running]:
    """A server that fetches media from some names, all of which lead to this machine."""
    domains = ("localhost", "127.0.0.1", "0x7f000001", "2130706433", "::1", "0", "127.1", "0177.0.0.1")
    with running(embedded, ServeOptions(port=0, allow_media_domains=domains)) as served:
        yield served


INNER = (
    "http://127.0.0.1:{}/", "http://localhost:{}/", "http://2130706433:{}/", "http://0x7f000001:{}/",
    "http://0177.0.0.1:{}/", "http://127.1:{}/", "http://[::1]:{}/", "http://[::ffff:127.0.0.1]:{}/", "http://0:{}/",
    "http://user:password@127.0.0.1:{}/", "http://127.0.0.1:{}\\@example.com/", "http://example.com@127.0.0.1:{}/",
    "HTTP://LOCALHOST.:{}/", "http://127。0。0。1:{}/", "http://①②⑦.0.0.1:{}/", "http://169.254.169.254/latest/meta-data/",
)  # fmt: skip


class TestAddresses:
    @pytest.mark.parametrize("url", INNER)
    @pytest.mark.parametrize("part", ["image_url", "video_url"])
    def test_no_written_form_of_this_machine_is_fetched(
        self, fetching: Running, inner: Inner, url: str, part: str
    ) -> None:
        body = {"messages": [{"role": "user", "content": [{"type": part, part: {"url": url.format(inner.port)}}]}]}
        answer = fetching.client.post(CHAT, json=body)
        assert answer.status_code == 400 and inner.requests == [], answer.text
        assert "password" not in answer.text

    def test_a_redirect_to_an_inner_address_is_not_followed(
        self, fetching_in_threads: Running, inner: Inner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first server stands for a public one: loopback addresses pass for it."""
        public = Inner(location=f"http://10.0.0.1:{inner.port}/secret")
        monkeypatch.setattr(
            "vita.media.fetch.check_address", lambda a, n, p: None if a.is_loopback else check_address(a, n, p)
        )
        answer = fetching_in_threads.client.post(CHAT, json=image(f"http://127.0.0.1:{public.port}/logo.png"))
        public.server.shutdown()
        assert answer.status_code == 400 and public.requests == ["/logo.png"] and inner.requests == []
        assert "secret" not in answer.text and "root:" not in answer.text

    def test_a_name_that_changes_its_address_leads_nowhere(
        self, fetching_in_threads: Running, inner: Inner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A public address when it is asked for first, an inner one from then on: the checked one is connected to."""
        asked = change_address(monkeypatch, "localhost", "192.0.2.1", "127.0.0.1")
        connected: list[object] = []

        def connect(address: tuple[str, int], *args: object, **named: object) -> socket.socket:
            connected.append(address[0])
            raise OSError("unreachable")

        monkeypatch.setattr(socket, "create_connection", connect)
        for _ in range(2):
            answer = fetching_in_threads.client.post(CHAT, json=image(f"http://localhost:{inner.port}/"))
            assert answer.status_code == 400
        assert inner.requests == [] and "127.0.0.1" not in connected and asked

    @pytest.mark.parametrize("url", INNER[:4])
    def test_nothing_is_fetched_without_an_allowed_domain(self, served: Running, inner: Inner, url: str) -> None:
        answer = served.client.post(CHAT, json=image(url.format(inner.port)))
        assert answer.status_code == 400 and "not fetched here" in answer.text and inner.requests == []

    @pytest.mark.parametrize(
        "url",
        [
            "file:///etc/passwd", "FILE:///etc/passwd", "/etc/passwd", "../../etc/passwd", "C:\\boot.ini", "-", "",
            "ftp://127.0.0.1/x", "gopher://127.0.0.1/x", "jar:http://x!/y", "//127.0.0.1/x", " http://127.0.0.1/",
            "\thttp://127.0.0.1/", "data", "about:blank", "blob:x", "concat:/etc/passwd|x", "http:/127.0.0.1/",
        ],
    )  # fmt: skip
    def test_files_and_other_schemes_are_not_read(self, fetching: Running, url: str) -> None:
        answer = fetching.client.post(CHAT, json=image(url))
        assert answer.status_code == 400 and "root:" not in answer.text, url
        audio = {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}
        answer = fetching.client.post(CHAT, json={"messages": [{"role": "user", "content": [audio]}]})
        assert answer.status_code == 400 and "root:" not in answer.text

    def test_playlists_and_references_inside_files_are_not_followed(self, served: Running, inner: Inner) -> None:
        target = f"http://127.0.0.1:{inner.port}/segment.ts"
        files = (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n".encode(),
            b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile {target}\n".encode(),
            f'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>'.encode(),
            b"v=0\r\nc=IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\n",
        )  # fmt: skip
        for data in files:
            for kind in ("image_url", "video_url"):
                part = {"type": kind, kind: {"url": data_url(data)}}
                answer = served.client.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]})
                assert answer.status_code == 400, answer.text
        assert inner.requests == []


BOMBS = (
    "a large image", "an image of one column", "a zip file", "a video of many frames", "audio that is too long",
    "audio that claims to be huge", "a broken video",
)  # fmt: skip


@cache
def bombs() -> dict[str, tuple[str, bytes]]:
    """By name: the kind of part, and the bytes."""
    zipped, frames, long = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(50 << 20))
    small = Pillow.new("P", (2, 2))
    small.save(frames, "GIF", save_all=True, append_images=[Pillow.new("P", (2, 2), n % 250) for n in range(3000)])
    with wave.open(long, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(1)
        writer.setframerate(8000)
        writer.writeframes(bytes(8000 * 700))
    header = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\xff\xff\xff\xff\xff\x7f\0\0\0\0\xff\xff\x10\0"
    header += b"data\xff\xff\xff\xff"
    made = {
        "a large image": ("image_url", png_of(20_000, 20_000)),
        "an image of one column": ("image_url", png_of(1, 400_000)),
        "a zip file": ("image_url", zipped.getvalue()),
        "a video of many frames": ("video_url", frames.getvalue()),
        "audio that is too long": ("input_audio", long.getvalue()),
        "audio that claims to be huge": ("input_audio", header),
        "a broken video": ("video_url", b"\0\0\0\x18ftypmp42" + b"\xff" * 5000),
    }
    assert tuple(made) == BOMBS
    return made


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_one_request_and_nothing_else(served: Running, name: str) -> None:
    kind, data = bombs()[name]
    if kind == "input_audio":
        part: dict[str, object] = {"type": kind, kind: {"data": base64.b64encode(data).decode(), "format": "wav"}}
    else:
        part = {"type": kind, kind: {"url": data_url(data)}}
    body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
    answer = served.client.post(CHAT, json=body)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["error"]["message"].endswith(".")
    assert name in ("an image of one column", "a video of many frames") or answer.status_code == 400
    assert served.client.post(CHAT, json={"messages": [{"role": "user", "content": "Hi"}]}).status_code == 200


def test_slow_media_end_at_their_deadline(embedded: vita.Vita) -> None:
    with running(embedded, ServeOptions(port=0, limits=Limits(media_seconds=0.001))) as served:
        answer = served.client.post(CHAT, json=image(data_url(png_of(3000, 3000))))
        assert answer.status_code == 400 and "too long" in answer.json()["error"]["message"]
        assert served.client.post(CHAT, json={"messages": [{"role": "user", "content": "Hi"}]}).status_code == 200


class TestLogs:
    SECRET = "a word that nobody else says"

    def logged(self, embedded: vita.Vita, caplog: pytest.LogCaptureFixture, *, log_content: bool) -> str:
        options = ServeOptions(port=0, log_content=log_content, api_keys=("key-of-the-log-test",))
        with caplog.at_level(logging.DEBUG), running(embedded, options) as served:
            for path, body in (
                (CHAT, {"messages": [{"role": "user", "content": self.SECRET}]}),
                ("/v1/responses", {"input": self.SECRET}), (CHAT, image(data_url(self.SECRET.encode()))),
                (f"/v1/{self.SECRET}", {}),
            ):  # fmt: skip
                served.client.post(path, json=body)
        return "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore")))

    def test_no_content_and_no_key_is_logged(self, embedded: vita.Vita, caplog: pytest.LogCaptureFixture) -> None:
        text = self.logged(embedded, caplog, log_content=False)
        assert "POST /v1/chat/completions 200" in text and "req_" in text
        assert self.SECRET not in text and "key-of-the-log-test" not in text

    def test_content_is_logged_if_asked_for(self, embedded: vita.Vita, caplog: pytest.LogCaptureFixture) -> None:
        text = self.logged(embedded, caplog, log_content=True)
        assert self.SECRET in text and "answered:" in text and "key-of-the-log-test" not in text


def test_a_fault_of_ours_says_nothing_about_itself(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret path /srv/secret")

    monkeypatch.setattr(served.server, "submit", broken)
    answer = served.client.post(CHAT, json={"messages": [{"role": "user", "content": "Hi"}]})
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text and answer.headers["x-request-id"]
    monkeypatch.undo()
    assert served.client.post(CHAT, json={"messages": [{"role": "user", "content": "Hi"}]}).status_code == 200


def test_a_checkpoint_that_does_not_hear_says_so(embedded: vita.Vita, served: Running, speech: str) -> None:
    checkpoint = embedded.engine.model.checkpoint
    kept = checkpoint.untrained
    object.__setattr__(checkpoint, "untrained", (*kept, "audio"))
    try:
        part = {"type": "input_audio", "input_audio": {"data": speech, "format": "flac"}}
        answer = served.client.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]})
        model = served.client.get("/v1/models").json()["data"][0]
    finally:
        object.__setattr__(checkpoint, "untrained", kept)
    assert answer.status_code == 400 and "not trained on audio" in answer.text and not model["capabilities"]["audio"]


def test_pixels_that_are_no_file_are_not_needed(served: Running) -> None:
    out = io.BytesIO()
    Pillow.fromarray(np.zeros((1, 1, 3), np.uint8)).save(out, "PNG")
    assert served.client.post(CHAT, json=image(data_url(out.getvalue(), "text/html"))).status_code == 200
