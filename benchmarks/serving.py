"""What the server costs: first token, first sound, barge-in, false stops, overhead over the engine, switch interval.

    python -m benchmarks.serving [--only first overhead] [--sessions 1 4 8] [--rounds 12] [--points 50] [--json FILE]

The embedded model is served by a process of its own on loopback (`serving_worker.py`); this one is the client.

- `first`: a typed question that is new to the caches, to its first piece of text. Sessions ask at the same time.
- `sound`: a spoken question that is new to the caches, from the commit of its audio to the first audio of the answer.
- `turn`: a spoken question whose end the server finds (`server_vad`, 500 ms of silence), from its last sample to the
  first piece of text.
- `barge`: speech at random points of answers, from its first sample to `speech_started` and to the last delta.
- `noise`: coughs, clicks, typing and music, each clip in a session of its own: does `speech_started` come?
- `backchannel`: 50 short words of a listener over an answer: what the page decides (needs Node.js), and whether the
  model takes them for meant.
- `overhead`: the same request by the server and by its engine alone, in turns; the ratio of their times.
- `switch`: two servers in turns, with Python's default switch interval of 5 ms and with 0.2 ms.

Intervals of ratios are those of the median (95 %, order statistics); those of counts are Wilson's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soxr
from benchmarks.realtime import FRAME, Talker, Times, append_event, question
from benchmarks.serving_client import ROOT, Row, Server, milliseconds, ratio, serving, together, wilson
from tests.serve.web.backchannels import RUN, backchannels, steps
from tests.speech.recordings import NO_SPEECH
from websockets.asyncio.client import ClientConnection

from vita.speech.vad import load_vad
from vita.speech.voice import choose_voice

RATE = 24_000
OVERHEAD_TOKENS, SHORT_TOKENS = 128, 16
DEFAULT_SWITCH, SHORT_SWITCH = 5e-3, 2e-4  # seconds


async def measure_first(flags: argparse.Namespace) -> list[Row]:
    rows = []
    async with serving() as server:
        for sessions in flags.sessions:
            times: list[float] = []
            for turn in range(max(2, flags.rounds // sessions)):

                async def one(n: int, turn: int = turn) -> float:
                    return (await server.ask(f"{turn}.{n}: what can you see in an image?", SHORT_TOKENS))[0]

                times += await together(sessions, one)
            rows.append(milliseconds("first token", times, sessions=sessions))
    return rows


async def first_sound(socket: ClientConnection, seed: int) -> float:
    """One spoken question of a session without voice activity."""
    await configure(socket, audio={"input": {"turn_detection": None}})
    await play(socket, new_question(seed))
    began = time.perf_counter()
    for kind in ("input_audio_buffer.commit", "response.create"):
        await socket.send(json.dumps({"type": kind}))
    return await first_of_answer(socket, "response.output_audio.delta", began)


async def first_text_of_turn(socket: ClientConnection, seed: int) -> float:
    """One spoken question whose end the server finds."""
    await configure(socket, output_modalities=["text"], max_output_tokens=SHORT_TOKENS)
    await play(socket, new_question(seed))
    began = time.perf_counter()
    silence = asyncio.create_task(play(socket, np.zeros(RATE, "<i2")))
    first = await first_of_answer(socket, "response.output_text.delta", began)
    await silence
    return first


def new_question(seed: int) -> np.ndarray[Any, Any]:
    """The question with a little noise, so that it is new to the encoder's cache; int16."""
    noise = np.random.default_rng(seed).integers(-8, 8, len(question()))
    return (question() + noise).astype("<i2")


async def configure(socket: ClientConnection, **session: object) -> None:
    await socket.send(json.dumps({"type": "session.update", "session": {"type": "realtime", **session}}))
    await until(socket, "session.updated")


async def first_of_answer(socket: ClientConnection, wanted: str, began: float) -> float:
    """Seconds since `began` until the first event of a kind; reads the answer to its end. 0: there was none."""
    first = 0.0
    async for message in socket:
        kind = json.loads(message)["type"]
        if kind == wanted and not first:
            first = time.perf_counter() - began
        if kind == "response.done":
            break
    return first


async def play(socket: ClientConnection, samples: np.ndarray[Any, Any]) -> None:
    """Send audio as a microphone does: 20 ms every 20 ms."""
    due = time.monotonic()
    for at in range(0, len(samples), FRAME):
        due += FRAME / RATE
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await socket.send(append_event(samples[at : at + FRAME]))


async def until(socket: ClientConnection, wanted: str) -> None:
    while json.loads(await socket.recv())["type"] != wanted:
        pass


async def spoken_row(name: str, sessions: int, rounds: int, one: Callable[[int], Coroutine[Any, Any, float]]) -> Row:
    """Seconds of spoken questions, so many sessions at the same time; 0 is a question without an answer."""
    found = [seconds for _ in range(max(2, rounds // sessions)) for seconds in await together(sessions, one)]
    times = [seconds for seconds in found if seconds]
    return milliseconds(name, times, sessions=sessions, unanswered=len(found) - len(times))


async def measure_sound(flags: argparse.Namespace) -> list[Row]:
    rows = []
    for voice in flags.voices:
        async with serving(voice=voice) as server:
            seeds = iter(range(10_000))

            async def one(n: int, server: Server = server, seeds: Any = seeds) -> float:
                async with server.socket() as socket:
                    return await first_sound(socket, next(seeds))

            await together(1, one)
            for sessions in flags.sessions:
                rows.append(await spoken_row(f"first sound, {voice}", sessions, flags.rounds, one))
    return rows


async def measure_turn(flags: argparse.Namespace) -> list[Row]:
    rows, seeds = [], iter(range(10_000, 20_000))
    async with serving(model=flags.model) as server:

        async def one(n: int) -> float:
            async with server.socket() as socket:
                return await first_text_of_turn(socket, next(seeds))

        await together(1, one)
        for sessions in flags.sessions:
            rows.append(await spoken_row("end of speech to first text", sessions, flags.rounds, one))
    return rows


async def measure_barge(flags: argparse.Namespace) -> list[Row]:
    times = Times()
    async with serving(voice="espeak", endless=True) as server:
        per = math.ceil(flags.points / flags.talkers)

        async def one(n: int) -> float:
            async with server.socket() as socket:
                await Talker(socket, random.Random(n), times, flags.longest).run(per)
            return 0.0

        await together(flags.talkers, one)
    return [
        milliseconds("onset of speech to speech_started", times.started, sessions=flags.talkers),
        milliseconds("onset of speech to last delta", times.last_delta, sessions=flags.talkers),
    ]


async def measure_noise(flags: argparse.Namespace) -> list[Row]:
    rows, all_hits, all_count = [], 0, 0
    async with serving() as server:
        for kind in ("coughs", "clicks", "typing", "music"):
            hits = 0
            for seed in range(flags.clips):
                clip = soxr.resample(NO_SPEECH[kind](seed), 16_000, RATE)
                hits += await is_taken_for_speech(server, (clip * 32_767).clip(-32_768, 32_767).astype("<i2"))
            rows.append(count_row(kind, hits, flags.clips))
            all_hits, all_count = all_hits + hits, all_count + flags.clips
    return [*rows, count_row("all", all_hits, all_count)]


def count_row(kind: str, hits: int, count: int) -> Row:
    low, high = wilson(hits, count)
    return {
        "measure": f"false stops, {kind}",
        "count": count,
        "hits": hits,
        "interval": [round(low, 3), round(high, 3)],
    }


async def is_taken_for_speech(server: Server, clip: np.ndarray[Any, Any]) -> bool:
    async with server.socket() as socket:
        for at in range(0, len(clip), RATE // 2):
            await socket.send(append_event(clip[at : at + RATE // 2]))
        await socket.send(json.dumps({"type": "conversation.item.retrieve", "item_id": "none"}))
        started = False
        async for message in socket:
            kind = json.loads(message)["type"]
            started |= kind == "input_audio_buffer.speech_started"
            if kind == "error":  # the clip was heard to its end
                break
        return started


async def measure_backchannel(flags: argparse.Namespace) -> list[Row]:
    clips = backchannels(choose_voice("espeak"))
    vad = load_vad()
    module = json.dumps((ROOT / "src/vita/serve/web/talk/barge_in.js").as_uri())
    given = json.dumps([steps(clip, vad) for clip in clips])
    code = f"import {{ BargeIn }} from {module}; const clips = {given};"
    code += f"console.log(JSON.stringify((() => {{ {RUN} }})()));"
    node = subprocess.run(
        ["node", "--input-type=module", "-"], input=code, capture_output=True, text=True, check=True, timeout=60
    )
    stopped = sum("stop" in decisions for decisions in json.loads(node.stdout))
    async with serving() as server:
        meant = sum([await is_taken_for_meant(server, (clip * 32_767).astype("<i2")) for clip in clips])
    return [
        count_row("backchannels that last too long for the page", stopped, len(clips)),
        count_row("backchannels that the model takes for meant", meant, len(clips)),
    ]


async def is_taken_for_meant(server: Server, clip: np.ndarray[Any, Any]) -> bool:
    """Whether a backchannel after a question and its answer is answered, with the page's settings."""
    async with server.socket() as socket:
        detection = {"type": "server_vad", "interrupt_response": False}
        heard = {"turn_detection": detection, "transcription": {"model": "vita"}}
        session: Row = {"type": "realtime", "output_modalities": ["text"], "audio": {"input": heard}}
        part = {"type": "input_text", "text": "What can you do?"}
        for event in (
            {"type": "session.update", "session": session},
            {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [part]}},
            {"type": "response.create"},
        ):  # fmt: skip
            await socket.send(json.dumps(event))
        await until(socket, "response.done")
        await socket.send(append_event(clip))
        async for message in socket:
            event = json.loads(message)
            if event["type"] == "response.created":
                return True
            if event["type"] == "conversation.item.input_audio_transcription.completed":
                return False
    raise RuntimeError("the server ended the session")


async def measure_overhead(flags: argparse.Namespace) -> list[Row]:
    rows = []
    async with serving(switch=DEFAULT_SWITCH) as default, serving(switch=SHORT_SWITCH) as short:
        wholes: dict[Server, list[float]] = {default: [], short: []}
        firsts: dict[Server, list[float]] = {default: [], short: []}
        for n in range(flags.pairs):
            for server in (default, short) if n % 4 < 2 else (short, default):
                ways = (server.ask, server.alone) if n % 2 else (server.alone, server.ask)
                # Each way meets a prompt that is new to the cache: the first word differs.
                found = {way: await way(f"{way.__name__} {n}: tell me about colors.", OVERHEAD_TOKENS) for way in ways}
                served, alone = found[server.ask], found[server.alone]
                wholes[server].append(served[1] / alone[1])
                firsts[server].append(served[0] - alone[0])
        for server, name in ((default, "5 ms"), (short, "0.2 ms")):
            rows.append(ratio(f"server / engine, switch {name}", wholes[server], sessions=1))
            rows.append(milliseconds(f"first token, server less engine, {name}", firsts[server], sessions=1))
    return rows


async def measure_switch(flags: argparse.Namespace) -> list[Row]:
    rows = []
    async with serving(switch=DEFAULT_SWITCH) as default, serving(switch=SHORT_SWITCH) as short:
        for sessions in flags.sessions:
            wholes, firsts = [], []
            for turn in range(flags.pairs):
                order = (default, short) if turn % 2 else (short, default)
                found = {}
                for server in order:

                    async def one(n: int, server: Server = server, turn: int = turn) -> tuple[float, float]:
                        return await server.ask(f"{turn}.{n}: what colors do you know?", 64)

                    pairs: Any = await together(sessions, one)  # type: ignore[arg-type]
                    found[server] = (max(whole for _, whole in pairs), median(first for first, _ in pairs))
                wholes.append(found[short][0] / found[default][0])
                firsts.append(found[short][1] / found[default][1])
            rows.append(ratio("switch interval 0.2 / 5 ms, 64 tokens of all", wholes, sessions=sessions))
            rows.append(ratio("the same, first token", firsts, sessions=sessions))
    return rows


MEASURES: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, list[Row]]]] = {
    "first": measure_first, "sound": measure_sound, "turn": measure_turn, "barge": measure_barge,
    "noise": measure_noise, "backchannel": measure_backchannel, "overhead": measure_overhead, "switch": measure_switch,
}  # fmt: skip


def line(row: Row) -> str:
    """A row of the table."""
    text = f"{row['measure']:48}" + (f"{row['sessions']:3} sessions" if "sessions" in row else " " * 12)
    text += f"{row['count']:5}"
    if "ratio" in row:
        return f"{text}  {row['ratio']:.3f} ({row['interval'][0]:.3f} to {row['interval'][1]:.3f})"
    if "hits" in row:
        low, high = row["interval"]
        return f"{text}  {row['hits']} ({100 * low:.1f} to {100 * high:.1f} %)"
    text += f"  {row['p5_ms']:7.0f} {row['p50_ms']:7.0f} {row['p95_ms']:7.0f} ms (5, 50, 95 %)"
    return text + (f", {row['unanswered']} without an answer" if row.get("unanswered") else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=24, help="questions of one session")
    parser.add_argument("--pairs", type=int, default=20, help="of requests in turns")
    parser.add_argument("--voices", nargs="+", default=["espeak", "piper"])
    parser.add_argument("--points", type=int, default=50, help="of barge-in, of all talkers together")
    parser.add_argument("--talkers", type=int, default=1, help="that barge in at the same time")
    parser.add_argument("--longest", type=float, default=1.0, help="seconds of an answer until the last point")
    parser.add_argument("--clips", type=int, default=50, help="of each kind of noise")
    parser.add_argument("--model", help="folder of a checkpoint for `turn`; default: the embedded model")
    parser.add_argument("--json", type=Path, help="file for the figures")
    flags = parser.parse_args()
    rows: list[Row] = []
    for name in flags.only:
        began = time.monotonic()
        for row in asyncio.run(MEASURES[name](flags)):
            rows.append(row)
            print(line(row), flush=True)
        print(f"({name}: {time.monotonic() - began:.0f} s)", file=sys.stderr)
        if flags.json is not None:
            flags.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
