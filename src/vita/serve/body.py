"""Request bodies: read within limits of size, memory, time and rate, and checked before they are parsed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import anyio
from starlette.types import Receive, Scope

from vita.prompt.surrogates import replace_surrogates
from vita.serve.errors import JSON, ApiError, invalid, too_busy
from vita.serve.options import Limits

DISCARD_SECONDS = 5.0
MAX_DIGITS = 40  # of an integer; more, and it would not become a float
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def method_has_body(method: str) -> bool:
    """Whether requests of this method are read and counted."""
    return method in ("POST", "PUT", "PATCH", "DELETE")


def media_type(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Content type without its parameters, in lower case, of the first such header: the one that routes look at."""
    for name, value in headers:
        if name.lower() == b"content-type":
            return value.decode("latin-1").partition(";")[0].strip().lower()
    return ""


class BodyMemory:
    """The bytes of bodies in memory, of all requests together.

    Args:
        limit: bytes.
        refused: called before a request is refused.

    Attributes:
        used: bytes, as of now.
    """

    def __init__(self, limit: int, refused: Callable[[], None] | None = None) -> None:
        self._limit, self._refused = limit, refused
        self.used = 0

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count so many bytes while they are in memory.

        Raises:
            ApiError: 429, the bodies of all requests would take more than the limit.
        """
        if self.used + size > self._limit:
            if self._refused is not None:
                self._refused()
            raise too_busy("The bodies of the requests in progress take too much memory; try again later.")
        self.used += size
        try:
            yield
        finally:
            self.used -= size


class Body:
    """The body of one request.

    Args:
        scope: of the request.
        receive: its messages.
        limits: of the server.
        memory: of the server.
    """

    def __init__(self, scope: Scope, receive: Receive, limits: Limits, memory: BodyMemory) -> None:
        self._scope, self._receive, self._limits, self._memory = scope, receive, limits, memory
        self._unread = method_has_body(scope["method"])
        self._began = time.monotonic()

    async def read(self, stack: ExitStack) -> bytes:
        """The body. It is counted until `stack` is closed.

        Raises:
            ApiError: 408, 413, 429, or 400 for a client that is gone.
        """
        declared = dict(self._scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self._limits.body_bytes):
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        while self._unread:
            with anyio.move_on_after(self._limits.idle_seconds) as timer:
                message = await self._receive()
            if timer.cancelled_caught or self._is_too_slow(size):
                self._unread = False  # no use to wait for the rest
                raise ApiError(408, "The body of the request arrived too slowly.", headers={"Connection": "close"})
            if message["type"] == "http.disconnect":
                self._unread = False
                raise ApiError(400, "The client closed the connection.")
            self._unread = message.get("more_body", False)
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limits.body_bytes:
                raise self._too_large()
            stack.enter_context(self._memory.hold(len(chunk)))
            chunks.append(chunk)
        return b"".join(chunks)

    async def discard(self) -> None:
        """Read what is left of a refused request's body, up to a limit: a client that is still sending when the
        connection closes would not see the answer."""
        size = 0
        with anyio.move_on_after(DISCARD_SECONDS):
            while self._unread and size < 2 * self._limits.body_bytes:
                message = await self._receive()
                self._unread = message.get("more_body", False)
                size += len(message.get("body", b""))

    def _is_too_slow(self, size: int) -> bool:
        seconds = time.monotonic() - self._began - self._limits.idle_seconds
        return seconds > 0 and size < seconds * self._limits.min_rate

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"The body of a request may have {self._limits.body_bytes:,} bytes at most.", code="body_too_large",
            headers={"Connection": "close"},
        )  # fmt: skip


def checked_json(body: bytes, limits: Limits) -> bytes:
    """JSON that any route can parse and send back: a surrogate without its other half becomes U+FFFD.

    Text that is no JSON at all is returned as it is: the route says so.

    Raises:
        ApiError: 400, it has too many values, is nested too deeply, or holds NaN or Infinity.
    """
    check_json(body, limits)
    surrogates = has_surrogates(body)
    if not surrogates and b"NaN" not in body and b"Infinity" not in body:
        return body
    try:
        found = parse_json(body)
    except NonFiniteNumber as error:
        raise invalid(f"The body is not valid JSON: {error}.") from None
    except ValueError:
        return body
    return json.dumps(found, ensure_ascii=False).encode() if surrogates else body


def check_json(body: bytes, limits: Limits) -> None:
    """Refuse JSON that would take much more memory than its bytes, or is nested deeply.

    Text that is no JSON at all passes: the route says so.

    Raises:
        ApiError: 400.
    """
    if body.count(b",") + body.count(b"{") + body.count(b"[") > limits.json_items:
        quoted = sum(piece.count(b",") + piece.count(b"{") + piece.count(b"[") for piece in _outside_strings(body))
        if quoted > limits.json_items:
            raise invalid(f"The body holds more than {limits.json_items:,} JSON values.")
    if body.count(b"{") + body.count(b"[") <= limits.json_depth:
        return
    try:
        found = json.loads(body)
    except ValueError:
        return
    except RecursionError:
        raise invalid(f"The body is nested more than {limits.json_depth} levels deep.") from None
    level = [found]
    for _ in range(limits.json_depth):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise invalid(f"The body is nested more than {limits.json_depth} levels deep.")


class NonFiniteNumber(ValueError):
    """NaN or an infinity, which Python reads and JSON does not have."""


def parse_json(text: str | bytes) -> JSON:
    """JSON whose depth was checked, with strings that can be encoded and numbers that are finite or can be compared.

    An integer of more than `MAX_DIGITS` digits becomes a float, which may be infinite.

    Raises:
        ValueError: it is no JSON; `NonFiniteNumber`: it holds NaN or an infinity.
    """
    found: JSON = json.loads(text, parse_constant=_refuse_non_finite, parse_int=_parse_int)
    if has_surrogates(text):
        found = json.loads(replace_surrogates(json.dumps(found, ensure_ascii=False)))
    return found


def has_surrogates(text: str | bytes) -> bool:
    """Whether JSON may hold surrogates, in pairs or alone."""
    if isinstance(text, str):
        if "\\u" not in text:  # base64 audio, of which every event would be encoded once more
            return False
        text = text.encode("utf-8", "replace")
    return _SURROGATE.search(text) is not None


def _refuse_non_finite(name: str) -> float:
    raise NonFiniteNumber(f"{name} is not a number")


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def _outside_strings(body: bytes) -> Iterator[bytes]:
    """The pieces of JSON between its strings."""
    text = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    yield from text.split(b'"')[::2]


def _children(item: object) -> list[object]:
    """Objects and arrays directly inside one."""
    values = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return [value for value in values if isinstance(value, (dict, list))]
