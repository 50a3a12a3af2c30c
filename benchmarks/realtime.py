"""Barge-in at a realtime server: from the onset of speech to `speech_started`, and to the last delta of the answer.

    python benchmarks/realtime.py [--points 50] [--sessions 1] [--voice espeak]

A client plays a question in real time, waits for the answer, and speaks again at a random point of it. Times are those
of the client on loopback, from the sample at which the speech begins.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from websockets.asyncio.client import ClientConnection, connect

import vita
from vita.serve.app import create_app
from vita.serve.listen import open_socket, serve
from vita.serve.options import ServeOptions

RATE = 24_000
FRAME = 480  # samples: 20 ms
QUESTION = Path(__file__).parents[1] / "assets" / "what_can_you_do.flac"
DELTAS = ("response.output_audio.delta", "response.output_audio_transcript.delta")


def question() -> np.ndarray[Any, Any]:
    """The question, int16, from where its speech begins: the first 10 ms above 2 % of full scale."""
    samples, rate = soundfile.read(QUESTION, dtype="float32", always_2d=True)
    samples = soxr.resample(samples.mean(axis=1), rate, RATE)
    loud = [at for at in range(0, len(samples), 240) if np.sqrt(np.mean(samples[at : at + 240] ** 2)) > 0.02]
    return (samples[loud[0] :] * 32_767).astype("<i2")


def append_event(samples: np.ndarray[Any, Any]) -> str:
    """The client event that sends int16 audio."""
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(samples.tobytes()).decode()})


@dataclass
class Times:
    """In seconds."""

    started: list[float] = field(default_factory=list)
    last_delta: list[float] = field(default_factory=list)
    first_audio: list[float] = field(default_factory=list)


class Talker:
    """One client, whose microphone never stops."""

    def __init__(self, socket: ClientConnection, dice: random.Random, times: Times, longest: float = 2.0) -> None:
        self.socket, self.dice, self.times, self.longest = socket, dice, times, longest
        self.speech: list[np.ndarray[Any, Any]] = []
        self.onset = self.ended = self.delta = 0.0
        self.last_delta = 0.0  # of the answer that was interrupted; that to the new turn may follow its end at once
        self.seen = asyncio.Queue[str]()

    async def microphone(self) -> None:
        """20 ms every 20 ms: speech if there is any, else faint noise."""
        due = time.monotonic()
        noise = np.random.default_rng(0)
        while True:
            if self.speech:
                frame = self.speech.pop(0)
                if not self.speech:
                    self.ended = time.monotonic()
            else:
                frame = noise.normal(0, 10, FRAME).astype("<i2")
            await self.socket.send(append_event(frame))
            due += FRAME / RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def reader(self) -> None:
        async for message in self.socket:
            kind = json.loads(message)["type"]
            if kind in DELTAS:
                self.delta = time.monotonic()
            elif kind == "input_audio_buffer.speech_stopped":
                self.last_delta = self.delta
            await self.seen.put(kind)

    async def until(self, wanted: str) -> None:
        while await self.seen.get() != wanted:
            pass

    async def say(self) -> None:
        samples = question()
        self.speech = [np.pad(samples[at : at + FRAME], (0, max(0, at + FRAME - len(samples))))
                       for at in range(0, len(samples), FRAME)]  # fmt: skip
        self.onset = time.monotonic()

    async def run(self, points: int) -> None:
        tasks = [asyncio.create_task(self.microphone()), asyncio.create_task(self.reader())]
        await self.say()
        for _ in range(points):
            await self.until("response.output_audio.delta")
            self.times.first_audio.append(time.monotonic() - self.ended)
            await asyncio.sleep(self.dice.uniform(0, self.longest))
            while not self.seen.empty():
                self.seen.get_nowait()
            await self.say()
            await self.until("input_audio_buffer.speech_started")
            started = time.monotonic()
            self.times.started.append(started - self.onset)
            await self.until("input_audio_buffer.speech_stopped")
            self.times.last_delta.append(max(0.0, self.last_delta - self.onset))
        for task in tasks:
            task.cancel()


async def wait_ready(host: str, port: int) -> None:
    """Until the server accepts connections."""
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return


async def measure(host: str, port: int, points: int, sessions: int) -> Times:
    times = Times()
    await wait_ready(host, port)

    async def one(number: int) -> None:
        async with connect(f"ws://{host}:{port}/v1/realtime", proxy=None, max_size=None) as socket:
            await Talker(socket, random.Random(number), times).run(points)

    await asyncio.gather(*(one(number) for number in range(sessions)))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=50, help="barge-ins of each session")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--voice", default="espeak")
    flags = parser.parse_args()
    with vita.load(device="cpu") as model:
        model.warm_up()
        options = ServeOptions(port=0, voice=flags.voice)
        listening = open_socket(options)
        threading.Thread(target=serve, args=(create_app(model, options), listening), daemon=True).start()
        host, port = listening.getsockname()
        times = asyncio.run(measure(host, port, flags.points, flags.sessions))
    for name, values in (
        ("end of speech to first audio", times.first_audio), ("onset to speech_started", times.started),
        ("onset to last delta", times.last_delta),
    ):  # fmt: skip
        low, middle, high = np.percentile(values, (5, 50, 95)) * 1000
        print(f"{name:32}{len(values):4} {low:7.0f} {middle:7.0f} {high:7.0f} ms (5, 50, 95 %)")


if __name__ == "__main__":
    main()
