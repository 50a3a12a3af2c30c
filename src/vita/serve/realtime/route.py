"""Routes of Realtime: the WebSocket /v1/realtime, and short-lived keys for web pages."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fastapi import APIRouter, Request, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from vita.serve.auth import KEY_SUBPROTOCOL, SUBPROTOCOL
from vita.serve.errors import JSON, invalid
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
        if self._websocket.application_state is WebSocketState.CONNECTED:
            try:
                await self._websocket.send_text(text)
            except (WebSocketDisconnect, RuntimeError):
                return  # the reader is told


@router.websocket("/v1/realtime")
@router.websocket("/realtime")
async def realtime(websocket: WebSocket) -> None:
    """Talk. Unknown query parameters are ignored, and every model name means the loaded one."""
    server = server_of(websocket)
    offered = [name.strip() for name in websocket.headers.get("sec-websocket-protocol", "").split(",")]
    await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
    vad, thread = listening(server)
    session = first_session(server)
    if websocket.query_params.get("intent") == "transcription":
        session = session.merge({"type": "transcription"})
    beta = is_beta({name.lower(): value for name, value in websocket.headers.items()})
    connection = Connection(TextSocket(websocket), server, tenant_of(websocket), session, vad, thread, beta=beta)
    await connection.run()
    if websocket.application_state is WebSocketState.CONNECTED:
        await websocket.close()
