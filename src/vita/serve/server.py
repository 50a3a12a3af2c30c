"""Server: the loaded model, its callers, and what is in progress."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from starlette.requests import HTTPConnection

from vita.errors import ResourceError
from vita.serve.auth import ClientSecrets, Gate, Tenant
from vita.serve.body import BodyMemory
from vita.serve.errors import too_busy, unavailable
from vita.serve.media_process import MediaProcesses
from vita.serve.model_names import is_model, model_id
from vita.serve.options import ServeOptions
from vita.serve.prometheus import Metrics
from vita.serve.transcripts import Transcripts

if TYPE_CHECKING:
    from vita.engine.handle import Handle
    from vita.serve.served_model import ServedModel
    from vita.speech.vad import SileroVad
    from vita.types import MediaOptions, Message, SamplingParams, SpeechOptions

log = logging.getLogger("vita.serve")
State = Literal["loading", "ready", "draining"]
Result = TypeVar("Result")
SPEECH_THREADS = 8


class Server:
    """What all routes share. One instance an application, at `app.state.server`.

    Args:
        model: loaded; the caller closes it.
        options: see `ServeOptions`.

    Attributes:
        state: "ready" while requests are taken.
        active: requests in progress.
        buffered: bytes of their bodies.
        transcripts: texts of spoken answers.
        speech_threads: that make and encode speech.
        vad: voice activity; None if its package is not installed.
        created: when the server was made, seconds since the epoch.
    """

    def __init__(self, model: ServedModel, options: ServeOptions) -> None:
        self.model, self.options = model, options
        self.secrets = ClientSecrets()
        self.gate = Gate(options, self.secrets)
        self.metrics = Metrics()
        self.media = MediaProcesses(model.engine.processor.config, options.limits, self.metrics.media_killed)
        self.transcripts = Transcripts()
        self.speech_threads = ThreadPoolExecutor(SPEECH_THREADS, "vita-serve-speech")
        self.vad = load_vad_if_installed()
        self.state: State = "loading"
        self.active = 0
        self.bodies = BodyMemory(options.limits.buffered_bytes, lambda: self.metrics.refused("memory"))
        self.created = int(time.time())
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def allow_urls(self) -> bool:
        """Whether media may be named by an http(s) URL."""
        return bool(self.options.allow_media_domains)

    @property
    def model_id(self) -> str:
        """The model's name for clients: a hub id as it is, of a folder its last part."""
        return model_id(self.model)

    def is_model(self, name: str | None) -> bool:
        """Whether a client's model name means the loaded model."""
        return is_model(self.model, name)

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken and the engine works."""
        return self.state == "ready" and self.model.engine.is_healthy

    def start(self) -> None:
        """Start the decode processes and take requests."""
        self.media.start()
        self.model.engine.read_turn_with(self.media.read_turn)
        self.state = "ready"

    async def drain(self, seconds: float | None = None) -> bool:
        """Refuse new requests and wait for those in progress.

        Returns:
            Whether all of them ended in time.
        """
        self.state = "draining"
        try:
            await asyncio.wait_for(self._idle.wait(), self.options.limits.drain_seconds if seconds is None else seconds)
        except (asyncio.TimeoutError, TimeoutError):
            log.warning("%d requests did not end in time and are cancelled", self.active)
            return False
        return True

    def close(self) -> None:
        """End the decode processes. The model stays loaded and reads media in threads again."""
        self.state = "draining"
        self.model.engine.read_turn_with(None)
        self.media.close()
        self.speech_threads.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request, or the turn of a session, while it is in progress.

        Raises:
            ApiError: 429 if there are too many; 503 while loading, stopping, or after the engine has failed.
        """
        if not self.is_ready:
            raise unavailable("The server is stopping." if self.state == "draining" else "The model is not available.")
        if self.active >= self.options.limits.requests:
            self.metrics.refused("requests")
            raise too_busy()
        self.active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.active -= 1
            if not self.active:
                self._idle.set()

    def submit(
        self, messages: Sequence[Message], params: SamplingParams, tenant: Tenant, *,
        media: MediaOptions | None = None, priority: int = 0, speech: SpeechOptions | None = None,
    ) -> Handle:  # fmt: skip
        """Queue a request with the server's policy, deadline and the caller's cache salt; `speech`: it is spoken, too.

        Raises:
            ApiError, VitaError: as `Vita.submit`.
        """
        return self.model.submit(
            messages, params, options=self._with_policy(media), priority=priority,
            deadline=self.options.limits.request_seconds, cache_salt=tenant.salt, speech=speech or False,
        )  # fmt: skip

    def log_asked(self, messages: Sequence[Message]) -> None:
        """Log a question, with `log_content`."""
        if self.options.log_content:
            log.info("asked: %s", " / ".join(message.text for message in messages))

    def log_answered(self, *texts: str) -> None:
        """Log answers, with `log_content`."""
        if self.options.log_content:
            log.info("answered: %s", " / ".join(texts))

    def log_spoken(self, text: str) -> None:
        """Log what is to be spoken, with `log_content`."""
        if self.options.log_content:
            log.info("to speak: %s", text)

    async def in_speech_thread(self, function: Callable[[], Result]) -> Result:
        """Run what opens voices or encodes audio beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.speech_threads, function)

    def _with_policy(self, media: MediaOptions | None) -> MediaOptions:
        policy = self.options.media_policy
        return self.options.media if media is None else replace(media, policy=policy)


def load_vad_if_installed() -> SileroVad | None:
    """The voice activity detector; None if its package is not installed."""
    from vita.speech.vad import load_vad

    try:
        return load_vad()
    except ResourceError:
        return None


def server_of(connection: HTTPConnection) -> Server:
    """The server of a request or WebSocket."""
    server = connection.app.state.server
    assert isinstance(server, Server)
    return server


def tenant_of(connection: HTTPConnection) -> Tenant:
    """Who sent a request or opened a WebSocket."""
    tenant = connection.scope["vita.tenant"]
    assert isinstance(tenant, Tenant)
    return tenant


def request_id_of(connection: HTTPConnection) -> str:
    """The id that `x-request-id` names."""
    return str(connection.scope["vita.request_id"])


def new_id(prefix: str) -> str:
    """An id that nobody can guess, such as "chatcmpl-…"."""
    return prefix + secrets.token_hex(16)
