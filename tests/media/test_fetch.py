"""URLs: which addresses are connected to, redirects, limits and deadlines, against a server on this machine."""

from __future__ import annotations

import http.server
import io
import ipaddress
import resource
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from tests.media.rebinding import change_address

from vita.errors import Cancelled, MediaError
from vita.media.fetch import check_address, embedded
from vita.media.image import load_image
from vita.media.policy import ReadGuard
from vita.media.source import read_source, snapshot
from vita.sources import Bytes, Url
from vita.types import MediaOptions, MediaPolicy

LOCAL = MediaOptions(policy=MediaPolicy(allow_private_hosts=True, deadline=30, max_bytes=1 << 20))


def png() -> bytes:
    out = io.BytesIO()
    Pillow.new("RGB", (6, 4), "red").save(out, "PNG")
    return out.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the path: what it does is in its name."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        name, _, argument = self.path[1:].partition("/")
        getattr(self, f"get_{name}", self.get_missing)(argument)

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def get_image(self, _: str) -> None:
        self.answer(200, {"Content-Length": str(len(png()))}, png())

    def get_unmeasured(self, _: str) -> None:
        self.answer(200, {}, png())

    def get_missing(self, _: str) -> None:
        self.send_response(404, "bad\x1b[31m words")
        self.end_headers()

    def get_hops(self, count: str) -> None:
        self.answer(302, {"Location": f"/hops/{int(count) - 1}" if int(count) > 1 else "/image"})

    def get_to(self, target: str) -> None:
        self.answer(307, {"Location": target})

    def get_large(self, _: str) -> None:
        self.answer(200, {"Content-Length": "1000000000000"})

    def get_endless(self, _: str) -> None:
        self.answer(200, {})
        while True:
            self.wfile.write(b"x" * 65536)

    def get_short(self, _: str) -> None:
        self.answer(200, {"Content-Length": "5000"}, png())

    def get_raw(self, _: str) -> None:
        self.answer(302, {"Location": "/image/für".encode().decode("latin-1")})

    def get_packed(self, _: str) -> None:
        self.answer(200, {"Content-Encoding": "gzip"}, png())

    def get_empty(self, _: str) -> None:
        self.answer(200, {"Content-Length": "0"})

    def get_chunked(self, _: str) -> None:
        body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (png()[:20], png()[20:])) + b"0\r\n\r\n"
        self.protocol_version = "HTTP/1.1"
        self.answer(200, {"Transfer-Encoding": "chunked"}, body)

    def get_broken(self, _: str) -> None:
        self.protocol_version = "HTTP/1.1"
        self.answer(200, {"Transfer-Encoding": "chunked"}, b"ffff\r\nabc")

    def get_drip(self, where: str) -> None:
        if where == "body":
            self.answer(200, {"Content-Length": "100000"})
        else:
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        while not self.server.stop.wait(0.05):  # type: ignore[attr-defined]
            self.wfile.write(b"x")
            self.wfile.flush()

    def get_silent(self, _: str) -> None:
        self.server.stop.wait(60)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str]] = []
        self.stop = threading.Event()

    def handle_error(self, *_: object) -> None:  # clients that leave early are what is tested
        pass

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_address[1]}/{path}"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield served
        served.stop.set()
        served.shutdown()
        thread.join()
    assert not list(tmp_path.glob("vita-*")), "temporary files stay behind"


@pytest.mark.parametrize("path", ["image", "unmeasured", "chunked", "hops/1", "hops/3"])
def test_an_image_is_fetched(server: Server, path: str) -> None:
    assert load_image(server.url(path), LOCAL).size == (6, 4)
    assert load_image(Url(server.url(path)), LOCAL).size == (6, 4)


def test_a_snapshot_of_a_url_is_bytes(server: Server) -> None:
    copy = snapshot(server.url("image"), LOCAL, "image")
    assert isinstance(copy, Bytes) and copy.data == png() and copy.name == server.url("image")
    loaded = read_source(server.url("image"), LOCAL, "video")
    for _ in range(2):  # a video is read twice
        with loaded.open() as stream:
            assert stream.read() == png()


def test_a_download_has_no_name_that_could_stay_behind(server: Server, tmp_path: Path) -> None:
    loaded = read_source(server.url("image"), LOCAL, "image")
    assert not list(tmp_path.iterdir())
    with loaded.open() as first, loaded.open() as second:
        del loaded  # the streams keep it
        assert first.read(8) == second.read(8) == png()[:8]
        assert second.seek(-4, io.SEEK_END) == len(png()) - 4 and second.read() == png()[-4:]
        assert first.read() == png()[8:] and first.read() == b""
        assert (
            first.seek(2) == 2 and first.seek(3, io.SEEK_CUR) == 5 and first.tell() == 5 and first.read(1) == png()[5:6]
        )


def test_without_a_folder_for_temporary_files(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(MediaError, match=r"cannot be stored while it is read .*; free some space, or set TMPDIR"):
        load_image(server.url("image"), LOCAL)


def test_a_full_disk_is_not_the_networks_fault(server: Server) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        with pytest.raises(MediaError, match=r"cannot be stored while it is read \(File too large\); free some space"):
            load_image(server.url("image"), LOCAL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_redirect_may_hold_raw_utf8(server: Server) -> None:
    assert load_image(server.url("raw"), LOCAL).size == (6, 4)
    assert server.seen[-1][0] == "/image/f%C3%BCr"


@pytest.mark.parametrize(
    "path, sentence",
    [
        ("missing", "the server answered 404 Not Found"),
        ("hops/4", "redirects more than 3 times"),
        ("to/file:///etc/hosts", "redirects to a file: URL"),
        ("to/ftp://127.0.0.1/a", "redirects to a ftp: URL"),
        ("to/data:,x", "redirects to a data: URL"),
        ("to/http://169.254.169.254/latest", "special address 169.254.169.254"),
        ("to/http://0.0.0.0/", "special address 0.0.0.0"),
        ("to/http://[::ffff:169.254.169.254]/", "special address 169.254.169.254"),
        ("to/http://100.100.100.200/", "metadata address"),
        ("to/http://a:b@127.0.0.1/", "user name"),
        ("to/http://[", "Invalid IPv6 URL"),
        ("large", "has 1,000,000,000,000 bytes"),
        ("endless", "larger than the limit"),
        ("short", r"broke off after \d+ of 5,000"),
        ("packed", "compressed"),
        ("empty", "is empty"),
        ("broken", "could not be fetched"),
    ],
)
def test_a_refusal_is_one_sentence(server: Server, path: str, sentence: str) -> None:
    with pytest.raises(MediaError, match=sentence) as caught:
        load_image(server.url(path), LOCAL)
    assert str(caught.value).isprintable() and server.url("") in str(caught.value)


@pytest.mark.parametrize("path", ["drip/head", "drip/body", "silent"])
def test_the_deadline_counts_for_the_whole_answer(server: Server, path: str) -> None:
    policy = MediaPolicy(allow_private_hosts=True, deadline=0.6)
    with pytest.raises(MediaError, match="took too long"):
        load_image(server.url(path), MediaOptions(policy=policy))
    with pytest.raises(MediaError, match="took too long"):
        load_image(server.url(path), LOCAL, ReadGuard.start(0.3))


@pytest.mark.parametrize("path", ["drip/head", "drip/body", "silent"])
def test_a_cancel_ends_the_wait_for_a_server(server: Server, path: str) -> None:
    with pytest.raises(Cancelled):
        load_image(server.url(path), LOCAL, ReadGuard(cancelled=lambda: len(server.seen) > 0))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "127.1", "127.0.0.1.",
     "１２７.0.0.1", "[::ffff:127.0.0.1]"],
)  # fmt: skip
def test_this_machine_is_private_in_every_spelling(server: Server, host: str) -> None:
    with pytest.raises(
        MediaError, match=r"private address 127|private address ::1|not known|could not be fetched"
    ) as e:
        load_image(server.url("image", host))
    assert server.seen == [], "nothing was asked"
    if host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
        assert "MediaPolicy(allow_private_hosts=True)" in str(e.value)


def test_a_redirect_to_a_private_address_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # This machine stands for a public server.
    monkeypatch.setattr(
        "vita.media.fetch.check_address", lambda a, n, p: None if a.is_loopback else check_address(a, n, p)
    )
    with pytest.raises(MediaError, match=r"private address 10\.0\.0\.1"):
        load_image(server.url("to/http://10.0.0.1/x"))


def test_a_name_is_resolved_once_and_the_checked_address_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = change_address(monkeypatch, "rebind.test", "127.0.0.1", "169.254.169.254")
    assert load_image(server.url("image", "rebind.test"), LOCAL).size == (6, 4)
    assert asked == ["rebind.test"]
    port = server.server_address[1]
    assert server.seen == [("/image", f"rebind.test:{port}")], "the server sees the name of the URL"
    with pytest.raises(MediaError, match=r"169\.254\.169\.254"):
        load_image(server.url("image", "rebind.test"), LOCAL)


def test_one_bad_address_of_a_name_refuses_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.server_address[1]
    answer = [(2, 1, 6, "", ("127.0.0.1", port)), (2, 1, 6, "", ("169.254.169.254", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: answer)
    with pytest.raises(MediaError, match=r"169\.254\.169\.254"):
        load_image(server.url("image", "both.test"), LOCAL)
    assert server.seen == []


def test_proxies_of_the_environment_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert load_image(server.url("image"), LOCAL).size == (6, 4)


def test_tls_asks_for_the_host_of_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **n: real("127.0.0.1" if host == "tls.test" else host, *a, **n)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard: list[bytes] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(4096))

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(MediaError, match="could not be fetched"):
            load_image(f"https://tls.test:{listener.getsockname()[1]}/a.png", LOCAL)
        thread.join()
    assert b"tls.test" in heard[0], "the name is in the handshake (SNI), so the certificate is checked against it"


def test_domains_name_hosts_and_their_subdomains(server: Server) -> None:
    def fetch(host: str, *domains: str) -> None:
        load_image(
            server.url("image", host), MediaOptions(policy=MediaPolicy(domains=domains, allow_private_hosts=True))
        )

    fetch("localhost", "other.org", "LocalHost")
    for host, domains in (
        ("localhost", ("example.com",)), ("localhost", ()), ("localhost", ("host",)), ("localhost", ("a.localhost",)),
        ("127.0.0.1", ("localhost",)), ("example.com.evil.org", ("example.com",)), ("badexample.com", ("example.com",)),
    ):  # fmt: skip
        with pytest.raises(MediaError, match="allowed domains"):
            fetch(host, *domains)
    with pytest.raises(MediaError, match="allowed domains"):
        load_image(
            server.url("to/http://127.0.0.1/x", "localhost"),
            MediaOptions(policy=MediaPolicy(domains=("localhost",), allow_private_hosts=True)),
        )


REFUSED_ALWAYS = (
    "0.0.0.0 0.1.2.3 100.64.0.1 100.100.100.200 168.63.129.16 169.254.169.254 192.0.0.8 192.0.0.192 192.0.2.1 "
    "192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 "
    ":: fe80::1 fec0::1 ff02::1 100::1 2001::1 2001:db8::1 3fff::1 5f00::1 fd00:ec2::254 "
    "::ffff:169.254.169.254 ::ffff:0:8.8.8.8 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:a9fe:a9fe::1 "
    "2600::5efe:a9fe:a9fe 2600::200:5efe:a9fe:a9fe ::8.8.8.8"
)
REFUSED_UNLESS_ALLOWED = (
    "127.0.0.1 127.255.0.1 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 ::1 fc00::1 fd12:3456::1 ::ffff:10.0.0.1 "
    "64:ff9b::c0a8:101 2002:7f00:1:: 2600::5efe:a00:1"
)
PUBLIC = "8.8.8.8 1.1.1.1 172.32.0.1 192.169.0.1 2606:4700:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1"


@pytest.mark.parametrize("text", REFUSED_ALWAYS.split())
def test_special_addresses_are_never_connected_to(text: str) -> None:
    for policy in (MediaPolicy(), MediaPolicy(allow_private_hosts=True)):
        with pytest.raises(MediaError, match="address"):
            check_address(ipaddress.ip_address(text), "x", policy)


@pytest.mark.parametrize("text", REFUSED_UNLESS_ALLOWED.split())
def test_private_addresses_need_leave(text: str) -> None:
    with pytest.raises(MediaError, match="private address"):
        check_address(ipaddress.ip_address(text), "x", MediaPolicy())
    check_address(ipaddress.ip_address(text), "x", MediaPolicy(allow_private_hosts=True))


@pytest.mark.parametrize("text", PUBLIC.split())
def test_public_addresses_are_allowed(text: str) -> None:
    check_address(ipaddress.ip_address(text), "x", MediaPolicy())


@given(st.ip_addresses(v=4))
def test_an_address_inside_an_address_is_judged_as_itself(inner: ipaddress.IPv4Address) -> None:
    number = int(inner)
    for outer in (0xFFFF << 32 | number, 0x2002 << 112 | number << 80, 0x64FF9B << 96 | number):
        assert embedded(ipaddress.IPv6Address(outer)) == inner


BAD_URLS = [
    "http://", "http:///a", "http://a:0/", "http://a:99999/", "http://a b/", "http://a\\b/", "http://a/\n", "http://[::1",
    "http://" + "a" * 300, "http://a..b/", "http://é\u3002/", "http://user@a/", "http://%41/", "https://.",
    "http://no-such-host.invalid/a.png",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_an_address_that_cannot_be_is_one_sentence(url: str) -> None:
    with pytest.raises(MediaError) as caught:
        load_image(url)
    assert "\n" not in str(caught.value)
