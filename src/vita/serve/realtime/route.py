"""Routes of Realtime: the WebSocket /v1/realtime, and short-lived keys for web pages."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request, WebSocket
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse
from starlette.websockets import WebSocketDisconnect, WebSocketState

from vita.serve.auth import SUBPROTOCOL
from vita.serve.errors import ApiError, invalid, unavailable
from vita.serve.realtime.connection import SESSION_SECONDS, Connection
from vita.serve.realtime.dialect import is_beta
from vita.serve.realtime.events import RealtimeError, new_id
from vita.serve.realtime.session import Catalog, Session, new_session
from vita.serve.server import Server, server_of, tenant_of
from vita.speech.listener import ListenerThread
from vita.speech.vad import SileroVad
from vita.speech.voice import available_voices

router = APIRouter()
SECRET_SECONDS = 600  # OpenAI's default
MAX_SECRET_SECONDS = 7200
MAX_SETTINGS = 200_000  # characters of the settings that a secret carries


class TextSocket:
    """Text messages of a WebSocket."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> str | None:
        """The next message; None once it is closed, "" for a binary one."""
        message = await self._websocket.receive()
        return None if message["type"] == "websocket.disconnect" else message.get("text") or ""

    async def send(self, text: str) -> None:
        """Send a text message; nothing once it is closed."""
        if self._websocket.client_state is WebSocketState.CONNECTED:
            try:
                await self._websocket.send_text(text)
            except (WebSocketDisconnect, RuntimeError):
                return  # the reader is told


@dataclass(frozen=True)
class Shared:
    """What all sessions of one application share.

    Attributes:
        catalog: model and voices.
        vad: voice activity.
        thread: computes it.
    """

    catalog: Catalog
    vad: SileroVad
    thread: ListenerThread


def shared_of(app: FastAPI, server: Server) -> Shared:
    """Made by the first session.

    Raises:
        ApiError: 503, no voice activity detector is installed.
    """
    found = getattr(app.state, "realtime", None)
    if isinstance(found, Shared):
        return found
    if server.vad is None:
        raise unavailable("Realtime needs the package silero-vad; run pip install 'vita-engine[serve]'.")
    voices = [voice.name for voice in available_voices(server.model.checkpoint_voice)]
    default = server.options.voice or (voices[0] if voices else "")
    catalog = Catalog(server.model_id, default, frozenset(voices))
    app.state.realtime = shared = Shared(catalog, server.vad, ListenerThread())
    return shared


def first_session(catalog: Catalog) -> Session:
    """The settings before any update."""
    return new_session(new_id("sess"), catalog, int(time.time()) + SESSION_SECONDS)


@router.websocket("/v1/realtime")
@router.websocket("/realtime")
async def realtime(websocket: WebSocket) -> None:
    """Talk. Unknown query parameters are ignored, and every model name means the loaded one."""
    server, tenant = server_of(websocket), tenant_of(websocket)
    try:
        shared = shared_of(websocket.app, server)
    except ApiError as error:
        await websocket.send_denial_response(error.response())
        return
    session = first_session(shared.catalog)
    if websocket.query_params.get("intent") == "transcription":
        session = session.merge({"type": "transcription"})
    if tenant.settings is not None:
        session = session.merge(tenant.settings)
    offered = [name.strip() for name in websocket.headers.get("sec-websocket-protocol", "").split(",")]
    await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
    beta = is_beta({name.lower(): value for name, value in websocket.headers.items()})
    connection = Connection(TextSocket(websocket), server, tenant, session, shared.vad, shared.thread, beta=beta)
    server.metrics.sessions.inc()
    try:
        await connection.run()
    finally:
        server.metrics.sessions.dec()
    if websocket.client_state is WebSocketState.CONNECTED:
        await websocket.close()


class SecretLife(BaseModel):
    """When a secret expires."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(SECRET_SECONDS, ge=10, le=MAX_SECRET_SECONDS)


class SecretRequest(BaseModel):
    """A secret, and the settings of the sessions that it opens."""

    session: dict[str, Any] | None = None
    expires_after: SecretLife | None = None


@router.post("/v1/realtime/client_secrets")
async def create_client_secret(request: Request, body: SecretRequest) -> JSONResponse:
    """A short-lived key for a web page: it opens realtime sessions only."""
    server, tenant = server_of(request), tenant_of(request)
    shared = shared_of(request.app, server)
    settings = body.session or {}
    if len(repr(settings)) > MAX_SETTINGS:  # they are kept until the secret expires
        raise invalid(f"session: may have {MAX_SETTINGS:,} characters at most.", "session")
    try:
        session = first_session(shared.catalog).merge(settings)
    except RealtimeError as error:
        raise invalid(error.message, error.param, error.code) from error
    seconds = SECRET_SECONDS if body.expires_after is None else body.expires_after.seconds
    value, expires_at = server.secrets.issue(tenant, seconds, settings)
    return JSONResponse({"value": value, "expires_at": expires_at, "session": session.as_json()})
