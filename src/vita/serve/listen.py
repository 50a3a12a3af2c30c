"""Listen: the socket, TLS, connections with limits, and a stop that lets requests end."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Protocol

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vita.errors import RequestError, ResourceError
from vita.serve.options import Limits, ServeOptions
from vita.serve.server import Server, State

log = logging.getLogger("vita")
HEADER_BYTES = 64 << 10  # of a request's first line and headers
KEEP_ALIVE_SECONDS = 15
SOCKET_MESSAGE_BYTES = 24 << 20  # of a WebSocket: 15 MB of audio as base64
CLOSE_SECONDS = 5  # for connections to close after the last request has ended


class Drained(Protocol):
    """What a listener stops in order.

    Attributes:
        state: "draining": new requests are refused.
        active: requests in progress.
    """

    state: State
    active: int

    @property
    def options(self) -> ServeOptions:
        """How it listens."""


def open_socket(options: ServeOptions) -> socket.socket:
    """Bind the address. Nothing is accepted before `serve`, so that a wrong port is found before the model is loaded.

    Raises:
        RequestError: the address is in use, or is not this machine's.
    """
    host = options.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, options.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise RequestError(f"{host!r} is no address ({error.strerror or error})", where="host") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        listening.close()
        raise RequestError(
            f"{options.port} on {host} cannot be used ({getattr(error, 'strerror', None) or error})", where="port",
            fix="choose another `port`, or 0 for any that is free",
        ) from error  # fmt: skip
    return listening


def base_url(options: ServeOptions, listening: socket.socket) -> str:
    """The server's address for a browser."""
    host, port = listening.getsockname()[:2]
    shown = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host
    return f"{'https' if options.is_secure else 'http'}://{f'[{shown}]' if ':' in shown else shown}:{port}"


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM; then refuse new requests, let those in progress end, and return.

    A second signal ends at once.
    """
    server = app.state.server
    assert isinstance(server, Server)
    with configured(app, server.options) as config, without_cancelled():
        Listener(config, server).run(sockets=[listening])


class _WithoutCancelled(logging.Filter):
    """Leaves out the stacks of requests that a stop has cut off: that is no error, and one line says how many."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, asyncio.CancelledError) and "CancelledError" not in record.getMessage()


@contextmanager
def without_cancelled() -> Iterator[None]:
    """Around an event loop with a `Listener`: requests that a stop cuts off are cancelled when the loop ends."""
    uvicorn_log, without = logging.getLogger("uvicorn.error"), _WithoutCancelled()
    uvicorn_log.addFilter(without)
    try:
        yield
    finally:
        uvicorn_log.removeFilter(without)


@contextmanager
def configured(app: ASGIApp, options: ServeOptions) -> Iterator[uvicorn.Config]:
    """uvicorn's settings with the certificate, which lasts as long as the block if it was made for this run.

    Raises:
        RequestError: the certificate cannot be used.
    """
    with ExitStack() as stack:
        certificate, key = options.ssl_certfile, options.ssl_keyfile
        if options.self_signed:
            folder = stack.enter_context(TemporaryDirectory(prefix="vita-"))
            certificate, key = make_certificate(Path(folder), options.host)
        config = uvicorn_config(app, options, certificate, key)
        try:
            config.load()
        except (ssl.SSLError, OSError) as error:
            raise RequestError(f"cannot be used ({error})", where=certificate, fix="name PEM files") from error
        yield config


def uvicorn_config(
    app: ASGIApp, options: ServeOptions, certificate: Path | None = None, key: Path | None = None
) -> uvicorn.Config:
    """uvicorn's settings, with the limits of the options."""
    return uvicorn.Config(
        app, http=http_protocol(options.limits), log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS, ws_max_size=SOCKET_MESSAGE_BYTES, ws_per_message_deflate=False,
        ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip


class Listener(uvicorn.Server):
    """uvicorn's server with a stop in two steps: requests in progress end before connections close.

    Args:
        config: of uvicorn.
        server: told when to refuse requests.
    """

    def __init__(self, config: uvicorn.Config, server: Drained) -> None:
        super().__init__(config)
        self._server = server
        self._stop_at: float | None = None  # when requests in progress are cancelled

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal. Unlike uvicorn's, it is not raised again at the end: the exit code is 0."""
        if self._stop_at is not None:
            log.warning("stopped at once; answers in progress are cut off: %d", self._server.active)
            self.should_exit = self.force_exit = True
            return
        self.stop()

    def stop(self) -> None:
        """Refuse new requests, and exit when those in progress have ended."""
        self._server.state = "draining"
        self._stop_at = time.monotonic() + self._server.options.limits.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the server."""
        if self._stop_at is not None and (not self._server.active or time.monotonic() > self._stop_at):
            self.should_exit = True
        return await super().on_tick(counter)


def http_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol with limits on connections, and on the bytes and the seconds that headers take.

    httptools and uvloop halve what a token costs the event loop, against h11 and asyncio's own loop.
    """

    class GuardedHttp(HttpToolsProtocol):
        _due: asyncio.TimerHandle | None = None
        _reads_headers = True
        _header_bytes = 0  # of data that came while headers are read

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.sockets:
                transport.abort()
                return
            self._expect_headers()

        def data_received(self, data: bytes) -> None:
            self._header_bytes += len(data)
            super().data_received(data)
            answered = self.cycle is not None and self.cycle.response_complete
            if self.transport.is_closing() or self not in self.connections:  # or it is a WebSocket's now
                self._headers_came()
            elif self._reads_headers and self._header_bytes > HEADER_BYTES:
                self.send_400_response("The headers are too long.")
            elif self._reads_headers or answered:
                self._expect_headers()
            else:
                self._headers_came()

        def on_message_begin(self) -> None:
            self._reads_headers, self._header_bytes = True, 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._reads_headers = False
            if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEADER_BYTES:
                raise ValueError("the headers are too long")  # the parser's error, answered with status 400
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers_came()
            super().connection_lost(exc)

        def _expect_headers(self) -> None:
            if self._due is None:
                self._due = self.loop.call_later(limits.idle_seconds, self.transport.close)

        def _headers_came(self) -> None:
            if self._due is not None:
                self._due.cancel()
                self._due = None

    return GuardedHttp


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A self-signed certificate for this machine's names, valid for 30 days, and its key, as PEM files.

    Raises:
        ResourceError: the package `cryptography` is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError:
        raise ResourceError(
            "needs the package cryptography", where="self_signed", fix="run pip install cryptography"
        ) from None
    import datetime
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vita")])
    names: list[x509.GeneralName] = [x509.DNSName(n) for n in {"localhost", socket.gethostname()}]
    names += [x509.IPAddress(ipaddress.ip_address(a)) for a in {"127.0.0.1", "::1", *_addresses(host)}]
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem.touch(mode=0o600)
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, key_pem


def _addresses(host: str) -> set[str]:
    """Addresses that this machine has, as far as its own name says, and the one it listens on."""
    found = set()
    for name in (host.strip("[]"), socket.gethostname()):
        try:
            infos = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError:
            continue  # a name that leads nowhere is left out of the certificate
        found |= {str(info[4][0]).partition("%")[0] for info in infos}
    return found - {"0.0.0.0", "::"}
