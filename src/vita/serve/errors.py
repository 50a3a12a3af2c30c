"""From errors to HTTP statuses and OpenAI's error body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from vita.errors import (
    Cancelled,
    CheckpointError,
    DownloadError,
    MediaError,
    QueueFull,
    RequestError,
    ResourceError,
    VitaError,
)

if TYPE_CHECKING:
    from starlette.responses import JSONResponse

INVALID = "invalid_request_error"
SERVER = "server_error"
RETRY_SECONDS = 1

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"


@dataclass
class ApiError(Exception):
    """An error that a client gets as it is.

    Attributes:
        status: HTTP status.
        message: one sentence.
        type, code: OpenAI's names.
        param: the field it is about, such as "messages[0].content".
        headers: of the answer.
    """

    status: int
    message: str
    type: str = INVALID
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, JSON]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP response."""
        from starlette.responses import JSONResponse  # here: `vita batch` reports these errors without a web framework

        return JSONResponse(self.body(), self.status, headers=self.headers)


class ClientSlow(Exception):
    """A client reads its answer too slowly; its connection is closed."""


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Status 400: a value that cannot be used."""
    return ApiError(400, message, INVALID, param, code)


def unsupported(param: str, why: str = "is not supported by this server") -> ApiError:
    """Status 400: a parameter that exists at OpenAI and is not honoured here."""
    return ApiError(400, f"{param}: {why}.", INVALID, param, "unsupported_parameter")


def unauthorized() -> ApiError:
    """Status 401."""
    return ApiError(
        401, "The API key is missing or wrong; send it as `Authorization: Bearer KEY`.", INVALID, None,
        "invalid_api_key", {"WWW-Authenticate": "Bearer"},
    )  # fmt: skip


def forbidden(message: str) -> ApiError:
    """Status 403."""
    return ApiError(403, message, INVALID, None, "forbidden")


def too_busy(message: str = "The server has too many requests; try again later.") -> ApiError:
    """Status 429 with `Retry-After`."""
    return ApiError(429, message, "rate_limit_error", None, "queue_full", {"Retry-After": str(RETRY_SECONDS)})


def unavailable(message: str) -> ApiError:
    """Status 503: loading, stopping, or failed."""
    return ApiError(503, message, SERVER, None, "unavailable", {"Retry-After": "5"})


def timed_out() -> ApiError:
    """Status 504: the request took longer than the server allows."""
    return ApiError(504, "The request took too long.", SERVER, None, "timeout")


# The first class that matches counts: status, type, code.
_TABLE: tuple[tuple[type[VitaError], int, str, str | None], ...] = (
    (QueueFull, 429, "rate_limit_error", "queue_full"),
    (MediaError, 400, INVALID, "invalid_media"),
    (DownloadError, 400, INVALID, "invalid_media"),
    (RequestError, 400, INVALID, None),
    (CheckpointError, 500, SERVER, None),
    (VitaError, 400, INVALID, None),
)


def _resource_error(error: ResourceError) -> ApiError:
    """What the machine lacks: a voice, memory for this request, or the model itself."""
    if error.where == "voice":  # no use to try again
        headers = {"x-should-retry": "false"}
        return ApiError(501, error.sentence(PARAMETERS), SERVER, "voice", "voice_not_installed", headers)
    if error.where == "max_tokens":
        return invalid(error.sentence(PARAMETERS), PARAMETERS["max_tokens"], "request_too_large")
    return unavailable("The model is not available; the server's log says more.")


# What our arguments are called in requests.
PARAMETERS = {"max_tokens": "max_completion_tokens", "logprobs": "top_logprobs"}


def as_api_error(error: BaseException) -> ApiError:
    """What a client is told about any error. Unexpected ones say nothing about themselves."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Cancelled):
        return unavailable("The request was cancelled.")
    if isinstance(error, ResourceError) and not isinstance(error, QueueFull):
        return _resource_error(error)
    if isinstance(error, VitaError):
        status, kind, code = next(row[1:] for row in _TABLE if isinstance(error, row[0]))
        param = PARAMETERS.get(error.where or "", error.where) if error.about_options else None
        headers = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else {}
        return ApiError(status, error.sentence(PARAMETERS), kind, param, code, headers)
    return ApiError(500, "The server has a fault; its log says more.", SERVER, None, "internal_error")
