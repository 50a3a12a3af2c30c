"""Spoken turns with Open WebUI's own realtime code. Arguments: its files, URL, speech (raw PCM16), turns.

Runs `routers/audio/realtime.py` of the package as it is, and of `routers/audio/__init__.py` the function that speaks
a text by Realtime. The application around them (accounts, database, FastAPI) has 80 dependencies and is replaced by
the few names that they import. This script is the browser: it does what the page of Open WebUI does in a call.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import importlib.util
import io
import json
import logging
import os
import sys
import types
import uuid
import wave
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode, urlsplit, urlunsplit

import aiofiles
import aiohttp

PAGE_EVENTS_MS = 200  # of audio in an event of the page
ADMIN = types.SimpleNamespace(id="1", role="admin")


class HTTPException(Exception):
    """As FastAPI's."""


class WebSocketDisconnect(Exception):
    """As FastAPI's."""


class Router:
    """As FastAPI's, without routing."""

    def websocket(self, path: str) -> Any:
        return lambda function: function


class Config:
    """The admin's settings."""

    values: ClassVar[dict[str, Any]] = {}

    @classmethod
    async def get(cls, key: str, default: Any = None) -> Any:
        return cls.values.get(key, default)

    @classmethod
    async def get_many(cls, *keys: str) -> dict[str, Any]:
        return {key: cls.values[key] for key in keys if key in cls.values}


class Browser:
    """The WebSocket of the page, as Open WebUI's server sees it."""

    def __init__(self) -> None:
        self.app = types.SimpleNamespace(state=types.SimpleNamespace(MODELS={"vita": {"id": "vita"}}, redis=None))
        self.sent: asyncio.Queue[str | None] = asyncio.Queue()
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.kinds: list[str] = []

    async def accept(self) -> None: ...

    async def close(self) -> None: ...

    async def receive_text(self) -> str:
        text = await self.sent.get()
        if text is None:
            raise WebSocketDisconnect
        return text

    async def send_json(self, event: dict[str, Any]) -> None:
        self.kinds.append(event["type"])
        await self.events.put(event)

    def send(self, kind: str, **fields: Any) -> None:
        self.sent.put_nowait(json.dumps({"type": kind, **fields}))

    async def until(self, kind: str) -> dict[str, Any]:
        while True:
            event = await asyncio.wait_for(self.events.get(), 30)
            assert event["type"] != "bridge.error", event
            if event["type"] == kind:
                return event


def module(name: str, **names: Any) -> None:
    """Put a module with these names where imports find it."""
    made = types.ModuleType(name)
    made.__dict__.update(names)
    made.__path__ = []  # type: ignore[attr-defined]  # it may have submodules
    sys.modules[name] = made


def constant(path: Path, name: str) -> Any:
    """The value of an assignment in a file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path} has no {name}")


def load_realtime(folder: Path, session: aiohttp.ClientSession) -> types.ModuleType:
    """Open WebUI's `routers/audio/realtime.py`."""

    async def user(*_: object) -> Any:
        return ADMIN

    async def get_session() -> aiohttp.ClientSession:
        return session

    async def nothing(*_: object, **__: object) -> None:
        return None

    prompt = constant(folder / "open_webui/config.py", "DEFAULT_REALTIME_CALL_PROMPT_TEMPLATE")
    voice = types.SimpleNamespace(model_validate=lambda value: types.SimpleNamespace(voice=None))
    module("fastapi", APIRouter=Router, WebSocket=Browser, WebSocketDisconnect=WebSocketDisconnect)
    for name in ("", ".models", ".utils"):
        module(f"open_webui{name}")
    module("open_webui.config", BYPASS_ADMIN_ACCESS_CONTROL=True, DEFAULT_REALTIME_CALL_PROMPT_TEMPLATE=prompt)
    module(
        "open_webui.env", AIOHTTP_CLIENT_SESSION_SSL=False, BYPASS_MODEL_ACCESS_CONTROL=True,
        ENABLE_FORWARD_USER_INFO_HEADERS=False,
    )  # fmt: skip
    module("open_webui.models.chats", Chats=None)
    module("open_webui.models.config", Config=Config)
    module("open_webui.models.models", Models=types.SimpleNamespace(get_model_by_id=nothing), ModelVoice=voice)
    module("open_webui.utils.access_control", has_permission=nothing)
    module("open_webui.utils.auth", get_verified_user_by_token=user)
    module("open_webui.utils.headers", get_microsoft_entra_id_access_token=None, include_user_info_headers=None)
    module("open_webui.utils.json_codec", JSONCodec=json)
    module("open_webui.utils.models", check_model_access=nothing, get_all_models=nothing)
    module("open_webui.utils.session_pool", get_session=get_session)
    module("open_webui.utils.voice_avatar", avatar_animation_tools=lambda gestures: [])
    spec = importlib.util.spec_from_file_location("realtime", folder / "open_webui/routers/audio/realtime.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


async def call(realtime: types.ModuleType, speech: bytes, turns: int) -> dict[str, Any]:
    """A call of so many turns, and an interruption at its end."""
    browser = Browser()
    browser.send("auth", token="a token", model_id="vita")
    running = asyncio.create_task(realtime.realtime_call(browser))
    await browser.until("bridge.ready")
    answers, transcripts, samples = [], [], []
    step = PAGE_EVENTS_MS * 48
    for turn in range(turns):
        browser.send("bridge.context", messages=[{"role": "user", "content": f"Turn {turn}."}])
        for at in range(0, len(speech), step):
            browser.send("input_audio_buffer.append", audio=base64.b64encode(speech[at : at + step]).decode())
        heard = await browser.until("conversation.item.input_audio_transcription.completed")
        transcripts.append(heard["transcript"])
        browser.send("bridge.respond", item_id=heard["item_id"])
        count = 0
        while (event := await asyncio.wait_for(browser.events.get(), 30))["type"] != "response.done":
            if event["type"] == "response.output_audio.delta":
                count += len(base64.b64decode(event["delta"])) // 2
        samples.append(count)
        assert event["response"]["metadata"] == {"input_item_id": heard["item_id"]}
        answers.append(event["response"]["output"][0]["content"][0]["transcript"])
    browser.send("bridge.status", status="working")  # said beside the conversation, and interrupted
    created = await browser.until("response.created")
    delta = await browser.until("response.output_audio.delta")
    browser.send("response.cancel", response_id=created["response"]["id"])
    browser.send(
        "conversation.item.truncate", item_id=delta["item_id"], content_index=delta["content_index"], audio_end_ms=10
    )
    await browser.until("conversation.item.truncated")
    browser.send("bridge.ping")
    await browser.until("bridge.pong")
    browser.sent.put_nowait(None)
    await running
    return {"answers": answers, "transcripts": transcripts, "samples": samples, "kinds": sorted(set(browser.kinds))}


async def speak(folder: Path, url: str, session: aiohttp.ClientSession) -> float:
    """Seconds of speech of a text, by the speech engine `openai-realtime`."""

    async def get_session() -> aiohttp.ClientSession:
        return session

    source = folder / "open_webui/routers/audio/__init__.py"
    wanted = [
        node for node in ast.parse(source.read_text(encoding="utf-8")).body
        if getattr(node, "name", "") == "_tts_openai_realtime"
    ]  # fmt: skip
    names: dict[str, Any] = {
        "Config": Config, "HTTPException": HTTPException, "FileResponse": lambda *_, **__: None,
        "get_session": get_session, "asyncio": asyncio,
        "aiohttp": aiohttp, "aiofiles": aiofiles, "base64": base64, "io": io, "os": os, "uuid": uuid, "wave": wave,
        "urlencode": urlencode, "urlsplit": urlsplit, "urlunsplit": urlunsplit,
        "ENABLE_FORWARD_USER_INFO_HEADERS": False, "AIOHTTP_CLIENT_SESSION_SSL": False,
    }  # fmt: skip
    exec(compile(ast.Module(wanted, []), str(source), "exec"), names)
    file = Path(f"{sys.argv[3]}.wav")
    payload = {
        "api_base_url": f"{url}/v1", "model": "vita", "voice": "alloy", "input": "The train leaves at ten.",
        "instructions": constant(folder / "open_webui/config.py", "DEFAULT_REALTIME_TTS_PROMPT_TEMPLATE"),
    }  # fmt: skip
    await names["_tts_openai_realtime"](None, payload, file, None, ADMIN)
    with wave.open(str(file)) as audio:
        return audio.getnframes() / audio.getframerate()


async def main(folder: Path, url: str, speech: bytes, turns: int) -> None:
    Config.values = {
        "audio.realtime.enabled": True, "audio.realtime.openai.api_base_url": f"{url}/v1",
        "audio.realtime.openai.api_key": "none", "audio.realtime.model": "vita", "audio.realtime.voice": "vita",
        "audio.realtime.transcription_model": "vita", "audio.tts.openai.api_key": "none",
    }  # fmt: skip
    failures: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: failures.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("realtime").addHandler(handler)
    logging.getLogger("realtime").setLevel(logging.INFO)
    async with aiohttp.ClientSession() as session:
        found = await call(load_realtime(folder, session), speech, turns)
        seconds = await speak(folder, url, session)
    print(json.dumps({"failures": failures, "seconds": seconds, **found}))


asyncio.run(
    asyncio.wait_for(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_bytes(), int(sys.argv[4])), 150)
)
