"""Routes /v1/models, /health and /metrics, and refusals of routes that are not served."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from vita.serve.errors import JSON, ApiError
from vita.serve.model_names import check_name
from vita.serve.server import Server, server_of

router = APIRouter()


def model_object(server: Server) -> dict[str, JSON]:
    """OpenAI's model object, with what clients show of it."""
    loaded = server.model.engine.model
    return {
        "id": server.model_id,
        "object": "model",
        "created": server.created,
        "owned_by": "vita",
        "name": server.model_id,
        "max_model_len": loaded.config.context,
        "capabilities": {"vision": True, "audio": "audio" not in loaded.checkpoint.untrained},
    }


@router.get("/v1/models")
async def list_models(request: Request) -> JSONResponse:
    """The loaded model."""
    return JSONResponse({"object": "list", "data": [model_object(server_of(request))]})


@router.get("/v1/models/{model_id:path}")
async def get_model(request: Request, model_id: str) -> JSONResponse:
    """The loaded model by its id."""
    server = server_of(request)
    check_model(server, model_id)
    return JSONResponse(model_object(server))


def check_model(server: Server, name: str | None) -> None:
    """Refuse the name of a model that is not loaded.

    Raises:
        ApiError: 404.
    """
    check_name(server.model, name)


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """Whether requests are taken: 200 or 503."""
    server = server_of(request)
    if server.is_ready:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": server.state if server.state != "ready" else "failed"}, 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    server = server_of(request)
    stats = await asyncio.to_thread(server.model.stats)
    server.metrics.active.set(server.active)
    return Response(server.metrics.text(stats), media_type=CONTENT_TYPE_LATEST)


@router.post("/v1/completions", include_in_schema=False)
async def completions() -> Response:
    """Not served: VITA answers conversations."""
    raise ApiError(404, "There is no /v1/completions here; use /v1/chat/completions.", code="unknown_url")
