"""Names of voices in requests, and the routes that list voices and speech models."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from vita.serve.errors import JSON, invalid
from vita.serve.server import Server, server_of
from vita.speech.voice import ALIASES, MAX_SPEED, MIN_SPEED, available_voices
from vita.types import SpeechOptions

router = APIRouter()


def speech_options(server: Server, voice: JSON, speed: float = 1.0, param: str = "voice") -> SpeechOptions:
    """How a request wants to be answered aloud.

    Args:
        server: of the request; its own voice stands for OpenAI's names.
        voice: a name, or an object with an `id`.
        speed: 0.25 to 4.
        param: the field's name, for errors.

    Raises:
        ApiError: 400, not a name, or a speed that no voice has.
    """
    name = voice.get("id") if isinstance(voice, Mapping) else voice
    if name is not None and not isinstance(name, str):
        raise invalid(f"{param}: must be the name of a voice, or an object with its id.", param)
    if not MIN_SPEED <= speed <= MAX_SPEED:
        raise invalid(f"speed: must be between {MIN_SPEED} and {MAX_SPEED:g}.", "speed")
    if not name or name in ALIASES or name == "default":
        name = server.options.voice
    return SpeechOptions(voice=name, speed=speed)


@router.get("/v1/audio/voices")
async def list_voices(request: Request) -> JSONResponse:
    """Voices that requests may name, the best first."""
    model = server_of(request).model
    voices = await asyncio.to_thread(lambda: available_voices(model.checkpoint_voice))
    listed: list[JSON] = [
        {"id": voice.name, "name": voice.name, "languages": list(voice.languages)[:100]} for voice in voices
    ]
    return JSONResponse({"voices": listed})


@router.get("/v1/audio/models")
async def list_speech_models(request: Request) -> JSONResponse:
    """The loaded model."""
    return JSONResponse({"models": [{"id": server_of(request).model_id}]})
