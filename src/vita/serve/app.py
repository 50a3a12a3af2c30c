"""The web application: routes, middleware, error handlers, start and stop."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from vita import __version__
from vita.errors import VitaError
from vita.serve import audio_speech, chat, models, responses, transcriptions, voices
from vita.serve.errors import INVALID, ApiError, as_api_error
from vita.serve.front import Front
from vita.serve.options import ServeOptions
from vita.serve.page import page_router
from vita.serve.realtime import route
from vita.serve.server import Server

if TYPE_CHECKING:
    from vita.serve.served_model import ServedModel

log = logging.getLogger("vita.serve")
ROUTERS: tuple[APIRouter, ...] = (
    models.router, chat.router, responses.router, transcriptions.router, audio_speech.router, voices.router,
    route.router,
)  # fmt: skip


def create_app(model: ServedModel, options: ServeOptions, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """The application for a loaded model.

    Args:
        model: loaded, and warm if the first request must not wait. It is not closed here.
        options: see `ServeOptions`.
        routers: further routes, behind the same checks.
    """
    server = Server(model, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.start()
        try:
            yield
        finally:
            await server.drain()
            server.close()

    app = FastAPI(
        title="VITA", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,  # their pages need a CDN
        redirect_slashes=False, separate_input_output_schemas=False,
    )  # fmt: skip
    app.state.server = server
    for router in (*ROUTERS, page_router(), *routers):
        app.include_router(router)
    app.add_exception_handler(ApiError, _answer_error)
    app.add_exception_handler(VitaError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_middleware(Front)
    if options.allow_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.allow_origins), allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=["x-request-id", "retry-after"],
        )  # fmt: skip
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    return as_api_error(error).response()


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """Pydantic's first complaint, with the field as OpenAI writes it: `messages[0].content`."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0]
    location = [part for part in found["loc"] if part not in ("body", "query", "path")]
    if not location and found["type"] != "json_invalid":
        return ApiError(400, "The body must be a JSON object, sent as Content-Type: application/json.").response()
    if found["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {found['ctx']['error']}.").response()
    param = ""
    for part in location:
        param += f"[{part}]" if isinstance(part, int) else f".{part}" if param else str(part)
    code = "missing_required_parameter" if found["type"] == "missing" else None
    return ApiError(400, f"{param or 'body'}: {found['msg']}.", INVALID, param or None, code).response()


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {404: f"There is no {request.method} {request.url.path[:200]} here.", 405: "Method not allowed."}.get(
        error.status_code, str(error.detail)
    )
    code = "unknown_url" if error.status_code == 404 else None
    return ApiError(error.status_code, message, INVALID, None, code, dict(error.headers or {})).response()
