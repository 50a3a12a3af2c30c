"""Fetch a URL: public addresses only, at most three redirects, one deadline.

The host name is resolved once per hop, and the connection goes to the address that was checked, so that a name cannot
change its address between the check and the connection. Proxies named in the environment are not used, because a proxy
would resolve the name again.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import queue
import re
import socket
import ssl
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeAlias
from urllib.parse import quote, urljoin, urlsplit

from vita.errors import MediaError
from vita.media.policy import UNGUARDED, ReadGuard
from vita.media.source import BLOCK, too_many_bytes
from vita.media.temporary import write_all
from vita.sources import Url, describe_source
from vita.types import MediaOptions, MediaPolicy

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_REDIRECTS = 3
CONNECT_SECONDS = 15.0  # for one address, the TLS handshake included
POLL_SECONDS = 0.2  # between two checks of the guard while a server is silent
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"User-Agent": "vita", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
SAFE = "/%:=&?~#+!$,;'@()*[]|{}^"  # left as they are in a path and a query
BAD_CHARACTERS = re.compile(r"[\x00-\x20\x7f\\]")
NETWORK = "check the address and the network"

GLOBAL_V6 = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Allowed by `MediaPolicy.allow_private_hosts`: this machine and private networks (RFC 1918, RFC 4193).
PRIVATE = [
    ipaddress.ip_network(n) for n in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1", "fc00::/7")
]
# Refused always, though some versions of `ipaddress` call them global.
SPECIAL = [ipaddress.ip_network(n) for n in ("192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4", "3fff::/20")]
# Metadata services of clouds at addresses that are not link-local.
METADATA = [ipaddress.ip_address(a) for a in ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")]


def fetch(url: str, target: BinaryIO, options: MediaOptions, guard: ReadGuard = UNGUARDED) -> int:
    """Stream the body of a URL into a file.

    Args:
        url: http or https.
        target: receives the bytes; unbuffered, so that a full disk is noticed here.
        options: the policy's domains, private hosts, size limit and, if the guard has no deadline, its deadline.
        guard: deadline and cancel, of all hops together.

    Returns:
        How many bytes were written.

    Raises:
        MediaError: not allowed, not reachable, refused by the server, too large, or too slow.
        Cancelled: by the guard.
    """
    if guard.until is None:
        guard = ReadGuard.start(options.policy.deadline, guard.cancelled)
    name = describe_source(Url(url))
    here = url
    for _ in range(MAX_REDIRECTS + 1):
        hop = _parse(here, name, options.policy)
        connection = _connect(hop, name, options.policy, guard)
        try:
            connection.request("GET", hop.path, headers=HEADERS)
            answer = connection.getresponse()
            if answer.status not in REDIRECTS or not answer.headers.get("Location"):
                return _save(answer, target, name, options, guard)
            here = urljoin(here, _location(answer))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise MediaError(f"could not be fetched ({_reason(error)})", where=name, fix=NETWORK) from error
        finally:
            connection.close()
            connection.guarded.real.close()
    raise MediaError(f"redirects more than {MAX_REDIRECTS} times", where=name, fix="pass the final address")


class _Hop(NamedTuple):
    """One address on the way: of the URL or of a redirect."""

    secure: bool
    host: str  # ASCII, lower case
    port: int
    path: str  # with the query


def _parse(url: str, name: str, policy: MediaPolicy) -> _Hop:
    """Check scheme, host and domain of a URL before any network is touched."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if not host.isascii():
            host = host.encode("idna").decode("ascii").lower()
    except ValueError as error:  # also UnicodeError
        raise MediaError(f"is not a valid URL ({error})", where=name, fix="check the address") from error
    if parts.scheme not in ("http", "https"):
        what = f"redirects to a {parts.scheme}: URL"
        raise MediaError(what, where=name, fix="only http: and https: URLs are fetched")
    host = host.rstrip(".")
    if not host or port == 0 or BAD_CHARACTERS.search(url):
        raise MediaError("is not a valid URL", where=name, fix="check the address")
    if "@" in parts.netloc:
        raise MediaError("holds a user name, which is not supported", where=name, fix="download the file first")
    if policy.domains is not None and not any(host == d or host.endswith(f".{d}") for d in policy.domains):
        raise MediaError(f"{host} is not one of the allowed domains", where=name, fix="send the bytes instead")
    secure = parts.scheme == "https"
    path = quote(parts.path or "/", safe=SAFE) + (f"?{quote(parts.query, safe=SAFE)}" if parts.query else "")
    return _Hop(secure, host, port or (443 if secure else 80), path)


def _connect(hop: _Hop, name: str, policy: MediaPolicy, guard: ReadGuard) -> _Connection:
    """A connection to the first address of the host that answers; every one of them must be allowed."""
    found = _resolve(hop.host, hop.port, name, guard)
    for address in found:
        check_address(address, name, policy)
    error: OSError | None = None
    for address in found:
        guard.check(name)
        connection = _Connection(hop, str(address), name, guard)
        try:
            connection.connect()
            return connection
        except OSError as reason:  # ssl.SSLError and TimeoutError are OSErrors
            error = reason
    guard.check(name)
    raise MediaError(f"could not be fetched ({_reason(error)})", where=name, fix=NETWORK) from error


def _resolve(host: str, port: int, name: str, guard: ReadGuard) -> list[Address]:
    """The host's addresses. In a thread of its own, because the system's resolver knows no deadline."""
    answers: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def work() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(info[4][0]) for info in infos])
        except (OSError, UnicodeError) as error:  # a label that is too long is a UnicodeError
            answers.put(error)

    threading.Thread(target=work, name="vita-resolve", daemon=True).start()
    while True:
        guard.check(name)
        try:
            answer = answers.get(timeout=POLL_SECONDS)
            break
        except queue.Empty:
            continue
    if isinstance(answer, Exception):
        raise MediaError(f"could not be fetched ({_reason(answer)})", where=name, fix=NETWORK) from answer
    return list(dict.fromkeys(ipaddress.ip_address(text.partition("%")[0]) for text in answer))


def check_address(address: Address, name: str, policy: MediaPolicy) -> None:
    """Refuse what is not on the public Internet.

    Raises:
        MediaError: a private or loopback address and the policy does not allow it, or any other special address.
    """
    address = embedded(address)
    if address in METADATA:
        raise MediaError(f"leads to the metadata address {address}", where=name)
    if any(address in network for network in PRIVATE):
        if policy.allow_private_hosts:
            return
        raise MediaError(
            f"leads to the private address {address}, which is not fetched from",
            where=name, fix="download the file first, or in Python set MediaPolicy(allow_private_hosts=True)",
        )  # fmt: skip
    if not address.is_global or address.is_multicast or any(address in network for network in SPECIAL):
        raise MediaError(f"leads to the special address {address}", where=name, fix="download the file first")
    if address.version == 6 and address not in GLOBAL_V6:
        raise MediaError(f"leads to the special address {address}", where=name, fix="download the file first")


def embedded(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one (mapped, 6to4, NAT64, ISATAP); any other as it is."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    low = int(address) & 0xFFFFFFFF
    isatap = int(address) >> 32 & 0xFDFFFFFF == 0x5EFE
    if inner is None and (address in NAT64 or isatap):
        inner = ipaddress.IPv4Address(low)
    return inner or address


def _save(
    answer: http.client.HTTPResponse, target: BinaryIO, name: str, options: MediaOptions, guard: ReadGuard
) -> int:
    """Write the body to the file; the size is checked before and while it arrives."""
    if answer.status != HTTPStatus.OK:
        raise MediaError(f"the server answered {_status(answer.status)}", where=name, fix="check the address")
    coding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise MediaError("comes compressed, though that was not asked for", where=name, fix="download it first")
    length = answer.headers.get("Content-Length", "")
    promised = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
    if promised is not None and promised > options.policy.max_bytes:
        raise too_many_bytes(name, options, promised)
    size = 0
    while block := answer.read1(BLOCK):
        size += len(block)
        if size > options.policy.max_bytes:
            raise too_many_bytes(name, options)
        write_all(target, block, name)
        guard.check(name)
    if promised is not None and size < promised:
        raise MediaError(f"broke off after {size:,} of {promised:,} bytes", where=name, fix="try again")
    return size


def _location(answer: http.client.HTTPResponse) -> str:
    """Where a redirect leads. Servers send raw UTF-8, which `http.client` takes for Latin-1."""
    text = answer.headers["Location"].strip()
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _status(code: int) -> str:
    """The code with its standard phrase; the server's own phrase could hold anything."""
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _reason(error: Exception | None) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "verify_message", None) or str(error)
    return " ".join(str(text).split())[:200] or type(error).__name__


class _Connection(http.client.HTTPConnection):
    """A connection to a given address under the URL's host name (for the Host header and the certificate)."""

    def __init__(self, hop: _Hop, address: str, name: str, guard: ReadGuard) -> None:
        super().__init__(hop.host, hop.port)
        if hop.secure:
            self.default_port = http.client.HTTPS_PORT  # so that the Host header leaves it out
        self.guarded: _GuardedSocket
        self._how = (hop.secure, address, name, guard)

    def connect(self) -> None:
        secure, address, name, guard = self._how
        left = guard.remaining()
        timeout = CONNECT_SECONDS if left is None else max(0.01, min(CONNECT_SECONDS, left))
        plain = socket.create_connection((address, self.port), timeout)
        if secure:
            try:
                plain = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
            except BaseException:
                plain.close()
                raise
        self.guarded = _GuardedSocket(plain, name, guard)
        self.sock = self.guarded


class _GuardedSocket:
    """The part of a socket that `http.client` uses; every wait for the server looks at the guard."""

    def __init__(self, real: socket.socket, name: str, guard: ReadGuard) -> None:
        self.real, self.name, self.guard = real, name, guard

    def sendall(self, data: bytes) -> None:
        self.real.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_GuardedReader(self))

    def close(self) -> None:
        """`http.client` closes before the body is read; `fetch` closes the real socket."""


class _GuardedReader(io.RawIOBase):
    def __init__(self, guarded: _GuardedSocket) -> None:
        self._guarded = guarded

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        guarded = self._guarded
        guarded.real.settimeout(POLL_SECONDS)
        while True:
            guarded.guard.check(guarded.name)
            try:
                return guarded.real.recv_into(buffer)
            except TimeoutError:  # silence: look at the guard, wait on
                continue
