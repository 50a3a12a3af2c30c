"""Who may call: API keys, short-lived secrets, Host and Origin checks."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vita.serve.errors import JSON, forbidden, unauthorized
from vita.serve.options import ServeOptions, is_loopback

SECRET_PREFIX = "ek_"
MAX_SECRETS = 1024
SUBPROTOCOL = "realtime"
KEY_SUBPROTOCOL = "openai-insecure-api-key."  # how a browser sends its key with a WebSocket
PUBLIC_PATHS = ("/", "/health")  # answered without a key
PUBLIC_PREFIXES = ("/static/",)

if TYPE_CHECKING:
    from starlette.types import Scope

Headers = Mapping[str, str]  # names in lower case


@dataclass(frozen=True)
class Tenant:
    """Who calls.

    Attributes:
        salt: of the caches, so that one key cannot find out what another one asked.
        secret: it came with a short-lived secret, which opens realtime sessions only.
        settings: of the sessions that the secret opens.
    """

    salt: str = ""
    secret: bool = False
    settings: Mapping[str, JSON] | None = None


class ClientSecrets:
    """Short-lived keys ("ek_…") that a web page may hold.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: dict[bytes, tuple[float, Tenant]] = {}  # by digest: when it expires, of whom

    def issue(
        self, tenant: Tenant, seconds: float, settings: Mapping[str, JSON] | None = None
    ) -> tuple[str, int]:  # fmt: skip
        """A new secret and when it expires, in seconds since the epoch.

        Args:
            tenant: whose it is.
            seconds: until it expires.
            settings: of the sessions that it opens.
        """
        now = self._clock()
        self._known = {digest: entry for digest, entry in self._known.items() if entry[0] > now}
        while len(self._known) >= MAX_SECRETS:
            self._known.pop(next(iter(self._known)))
        secret = SECRET_PREFIX + secrets.token_urlsafe(24)
        self._known[_digest(secret)] = (now + seconds, Tenant(tenant.salt, secret=True, settings=settings))
        return secret, int(now + seconds)

    def find(self, secret: str) -> Tenant | None:
        """Whose it is; None if it is unknown or has expired."""
        # A look-up by SHA-256 takes no time that depends on the secret itself.
        entry = self._known.get(_digest(secret))
        return entry[1] if entry is not None and entry[0] > self._clock() else None


class Gate:
    """Checks of one request before anything of it is read.

    Args:
        options: keys, hosts and origins.
        secrets: issued so far.
    """

    def __init__(self, options: ServeOptions, client_secrets: ClientSecrets) -> None:
        self._options, self._secrets = options, client_secrets
        self._keys = [_digest(key) for key in options.api_keys]
        self._salt_key = secrets.token_bytes(16)

    def caller(self, scope: Scope) -> Tenant:
        """Host, origin and key of a request or WebSocket.

        Raises:
            ApiError: 401 or 403.
        """
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self.check_host(headers)
        self.check_origin(headers)
        return self.tenant(headers, scope["path"])

    def check_host(self, headers: Headers) -> None:
        """Refuse a request that reached a loopback server by another machine's name (DNS rebinding).

        A server that other machines can reach has a key, which such a page does not know.

        Raises:
            ApiError: 403.
        """
        if not self._options.is_loopback and not self._options.allow_hosts:
            return
        if "host" not in headers:  # no browser leaves it out
            return
        host = host_name(headers["host"])
        allowed = {name.lower() for name in (*self._options.allow_hosts, self._options.host)}
        if not (host in allowed or is_loopback(host) or (not self._options.is_loopback and _is_address(host))):
            raise forbidden("This host name is not served here; start the server with --allow-host to allow it.")

    def check_origin(self, headers: Headers) -> None:
        """Refuse a web page of another site, unless it was allowed.

        Raises:
            ApiError: 403.
        """
        origin = headers.get("origin")
        if origin is None or "*" in self._options.allow_origins or origin.lower() in self._options.allow_origins:
            return
        if origin.lower().partition("://")[2] != headers.get("host", "").lower():
            raise forbidden("This web page may not call this server; start it with --allow-origin to allow it.")

    def tenant(self, headers: Headers, path: str) -> Tenant:
        """Who calls.

        Args:
            headers: names in lower case.
            path: of the request.

        Raises:
            ApiError: 401.
        """
        offered = offered_key(headers)
        if offered is not None and offered.startswith(SECRET_PREFIX):
            found = self._secrets.find(offered)
            if found is not None and path.rstrip("/").endswith("/realtime"):
                return found
        if not self._keys:
            return Tenant()
        if offered is not None:
            digest = _digest(offered)
            # Every key is compared, so that the time does not depend on which one matches.
            if any([hmac.compare_digest(digest, key) for key in self._keys]):
                return Tenant(hmac.new(self._salt_key, digest, "sha256").hexdigest())
        if path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES):
            return Tenant()
        raise unauthorized()


def offered_key(headers: Headers) -> str | None:
    """The key of a request: of its Authorization header, or of a WebSocket's subprotocols."""
    scheme, _, key = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    for name in headers.get("sec-websocket-protocol", "").split(","):
        if name.strip().startswith(KEY_SUBPROTOCOL):
            return name.strip().removeprefix(KEY_SUBPROTOCOL)
    return None


def host_name(host: str) -> str:
    """The name of a Host header, in lower case, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
        return True
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
