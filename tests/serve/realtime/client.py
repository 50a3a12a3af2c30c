"""A realtime client that sends what it is told and checks every event that arrives."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from websockets.sync.client import ClientConnection, connect

from tests.serve.realtime.wire import Wire
from tests.serve.running import Running
from vita.serve.realtime import g711

ASSETS = Path(__file__).parents[3] / "assets"
MAX_MESSAGE = 512 << 10  # Open WebUI's
Pcm = np.ndarray[Any, np.dtype[np.int16]]


def is_question(transcript: str) -> bool:
    """Whether a transcript is that of `question`.

    The embedded model has learned "What can I ask you?" as another way to ask it, and writes down one or the other by
    where the audio is cut; how well it writes down is measured in `tests/default`.
    """
    return any(words in transcript.lower() for words in ("what can you do", "what can i ask"))


def question(rate: int = 24_000) -> Pcm:
    """ "What can you do?", int16 mono."""
    samples, from_rate = soundfile.read(ASSETS / "what_can_you_do.flac", dtype="float32", always_2d=True)
    return as_pcm(soxr.resample(samples.mean(axis=1), from_rate, rate))


def silence(seconds: float, rate: int = 24_000) -> Pcm:
    return np.zeros(int(seconds * rate), np.int16)


def as_pcm(samples: np.ndarray[Any, Any]) -> Pcm:
    return np.clip(samples * 32_767, -32_768, 32_767).astype(np.int16)


class Client:
    """One connection. Events are checked by `Wire` in GA, or kept as they are in beta."""

    def __init__(self, socket: ClientConnection, *, beta: bool) -> None:
        self._socket, self._beta, self.wire = socket, beta, Wire()
        self.taken = 0  # events that `until` has passed

    def send(self, kind: str, **fields: Any) -> None:
        self._socket.send(json.dumps({"type": kind, **fields}))

    def send_text(self, text: str | bytes) -> None:
        self._socket.send(text)

    def receive(self, timeout: float = 60) -> Any:
        event = json.loads(self._socket.recv(timeout))
        if self._beta:
            self.wire.events.append(event)
        else:
            self.wire.see(event)
        return event

    def until(self, kind: str, check: Callable[[Any], bool] = lambda event: True) -> Any:
        """The next event of this type, and everything before it."""
        while True:
            while self.taken < len(self.wire.events):
                event = self.wire.events[self.taken]
                self.taken += 1
                if event["type"] == kind and check(event):
                    return event
            self.receive()

    def since(self, start: int) -> list[str]:
        return self.wire.kinds()[start:]

    def append(self, samples: Pcm, law: g711.Law | None = None, *, chunk: int = 2400) -> None:
        for at in range(0, len(samples), chunk):
            piece = samples[at : at + chunk]
            raw = piece.astype("<i2").tobytes() if law is None else g711.encode(np.ascontiguousarray(piece), law)
            self.send("input_audio_buffer.append", audio=base64.b64encode(raw).decode())

    def speak(self) -> None:
        """A spoken question and a second of silence."""
        self.append(np.concatenate([silence(0.2), question(), silence(1.0)]))

    def create_text(self, text: str, **fields: Any) -> None:
        part = {"type": "input_text", "text": text}
        self.send("conversation.item.create", item={"type": "message", "role": "user", "content": [part], **fields})

    def update(self, **session: Any) -> Any:
        self.send("session.update", session={"type": "realtime", **session})
        return self.until("session.updated")["session"]


@contextmanager
def connected(
    served: Running, path: str = "/v1/realtime?model=vita", *, beta: bool = False, **options: Any
) -> Iterator[Client]:
    headers = {"OpenAI-Beta": "realtime=v1"} if beta else {}
    url = served.url.replace("http", "ws", 1) + path
    with connect(url, additional_headers=headers, max_size=MAX_MESSAGE, proxy=None, **options) as socket:
        yield Client(socket, beta=beta)


def audio_of(events: list[Any], response_id: str | None = None) -> bytes:
    deltas = [
        event["delta"]
        for event in events
        if event["type"] in ("response.output_audio.delta", "response.audio.delta")
        and response_id in (None, event["response_id"])
    ]
    return b"".join(base64.b64decode(delta) for delta in deltas)
