"""Options of the server: address, keys, allowed origins and media, limits."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from vita.errors import RequestError
from vita.types import MediaOptions, MediaPolicy

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
KEY_VARIABLE = "VITA_API_KEY"
MIN_KEY = 8  # characters
VITA_ENGINE, VLLM_ENGINE = "vita", "vllm"  # engines


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        body_bytes: of one request.
        buffered_bytes: of the bodies of all requests that are read or handled.
        json_items: objects, arrays and commas of a JSON body.
        json_depth: nesting of a JSON body.
        messages: of one request.
        parts: content parts of one request.
        text_characters: of one request.
        pixels: of one image or video frame.
        frames: of one video.
        audio_seconds: of one audio clip.
        media_seconds: to read and decode the media of one request.
        media_bytes: address space of one decode process.
        tokens: of one answer, if the request names no limit.
        requests: in progress at a time, HTTP requests and turns of realtime sessions; one more gets status 429.
        sockets: open connections.
        idle_seconds: that a client may take for the headers of a request, between two pieces of its body, and to read a
            piece of the answer.
        min_rate: bytes a second that a body must keep up after `idle_seconds`.
        request_seconds: of one request, from its body to the end of its answer.
        drain_seconds: that requests in progress get when the server is told to stop.
    """

    body_bytes: int = 64 << 20
    buffered_bytes: int = 512 << 20
    json_items: int = 200_000
    json_depth: int = 64
    messages: int = 1024
    parts: int = 128
    text_characters: int = 2_000_000
    pixels: int = 50_000_000
    frames: int = 64
    audio_seconds: float = 600.0
    media_seconds: float = 30.0
    media_bytes: int = 3 << 30
    tokens: int = 1024
    requests: int = 256
    sockets: int = 512
    idle_seconds: float = 30.0
    min_rate: int = 1024
    request_seconds: float = 600.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise RequestError(f"must be more than 0, not {value!r}", where=item.name)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How the server listens, whom it answers, and what it accepts. The values are checked here.

    Attributes:
        host, port: it listens on. A host that is not loopback needs an API key.
        api_keys: any of them is accepted; each has prefix and encoder cache entries of its own. None: no key is asked
            for.
        allow_hosts: further names that a client may call this server by (`Host` header), such as a proxy's.
        allow_origins: web pages that may call it, such as "https://chat.example.com", or "*".
        allow_media_domains: hosts that media URLs may name, with their subdomains; none: URLs are not fetched.
        limits: see `Limits`.
        log_content: write questions and answers to the log.
        ssl_certfile, ssl_keyfile: PEM files for https.
        self_signed: make a certificate for this run.
        voice: of speech, if the request names none.
        engine: that answers: "vita", this package's own, or "vllm".
        engine_args: vLLM's engine arguments, a JSON object; empty: none.

    Raises:
        RequestError: a value that cannot be used, or a host beyond this machine without a key.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    api_keys: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    allow_media_domains: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    log_content: bool = False
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    self_signed: bool = False
    voice: str | None = None
    engine: str = VITA_ENGINE
    engine_args: str = ""

    def __post_init__(self) -> None:
        if self.engine not in (VITA_ENGINE, VLLM_ENGINE):
            raise RequestError(
                f"there is no engine {self.engine!r:.60}", where="engine", fix=f"use {VITA_ENGINE} or {VLLM_ENGINE}"
            )
        if not 0 <= self.port <= 65535:
            raise RequestError(f"must be 0 to 65535, not {self.port}", where="port")
        for key in self.api_keys:
            if len(key) < MIN_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise RequestError(
                    f"an API key must have {MIN_KEY} or more characters, ASCII and without spaces", where="api_keys"
                )
        if not self.is_loopback and not self.api_keys:
            raise RequestError(
                f"{self.host} can be reached from other machines, so an API key is needed", where="host",
                fix=f"set {KEY_VARIABLE}, or name a file with `api_key_file`",
            )  # fmt: skip
        for origin in self.allow_origins:
            scheme, mark, rest = origin.partition("://")
            if origin != "*" and (scheme not in ("http", "https") or not mark or not rest or "/" in rest):
                raise RequestError(
                    f"{origin!r} is not an origin", where="allow_origins", fix='write it as "https://chat.example.com"'
                )
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise RequestError("`ssl_certfile` and `ssl_keyfile` belong together", fix="name both, or neither")
        if self.self_signed and self.ssl_certfile is not None:
            raise RequestError("cannot be used with `ssl_certfile`", where="self_signed", fix="leave one of them out")
        try:
            _ = self.media_policy
        except RequestError as error:
            raise RequestError(error.what, where="allow_media_domains", fix='write "example.com"') from error

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def is_secure(self) -> bool:
        """Whether it speaks https."""
        return self.self_signed or self.ssl_certfile is not None

    @property
    def media_policy(self) -> MediaPolicy:
        """What media a request may name."""
        limits = self.limits
        return MediaPolicy(
            allow_files=False, allow_urls=bool(self.allow_media_domains),
            domains=self.allow_media_domains or None, max_bytes=limits.body_bytes, max_pixels=limits.pixels,
            max_seconds=limits.audio_seconds, deadline=limits.media_seconds,
        )  # fmt: skip

    @property
    def media(self) -> MediaOptions:
        """How media of a request are read."""
        return MediaOptions(policy=self.media_policy)


def is_loopback(host: str) -> bool:
    """Whether a host name or address stands for this machine only."""
    if host.strip("[]").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_keys(environment: Mapping[str, str], file: Path | None = None) -> tuple[str, ...]:
    """The API keys: of the variable `VITA_API_KEY` and of a file with one key a line.

    Raises:
        RequestError: the file cannot be read, or holds no key.
    """
    keys = [environment[KEY_VARIABLE].strip()] if environment.get(KEY_VARIABLE, "").strip() else []
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"cannot be read ({getattr(error, 'strerror', None) or error})", where=file, fix="check the path"
            ) from error
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise RequestError("holds no key", where=file, fix="write one key a line")
        keys += found
    return tuple(dict.fromkeys(keys))
