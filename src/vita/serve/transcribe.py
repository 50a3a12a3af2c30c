"""Speech to text: the model is asked to write down what it hears.

Long recordings are cut where nobody speaks, by voice activity, and each piece is one request.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vita.events import Done, Result, TextDelta, TokenLogprob, Usage
from vita.media.policy import ReadGuard
from vita.runtime.clock import Stopwatch
from vita.serve.answers import check_ended
from vita.serve.auth import Tenant
from vita.serve.server import Server
from vita.serve.sse import DELTA_SECONDS
from vita.sources import Array
from vita.speech.turns import SpeechStopped, TurnOptions
from vita.types import Audio, MediaOptions, Message, SamplingParams, Text

if TYPE_CHECKING:
    from vita.engine.handle import Handle
    from vita.speech.vad import SileroVad

Samples: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

INSTRUCTION = "Write down what I said."
PREFIX = re.compile(r"i hear:\s*", re.IGNORECASE)  # what the embedded model begins with
STOP = ("\n",)  # what follows would be an answer to what was said
SAMPLE_RATE = 16_000
LONG_SECONDS = 30.0  # longer recordings are cut
CUT = TurnOptions(silence_ms=600, max_turn_ms=30_000)
NOBODY_SPEAKS = 0.2  # a recording is silent if its likeliest frame is less likely speech


@dataclass(frozen=True)
class Segment:
    """A piece of a recording in which somebody speaks.

    Attributes:
        start, end: in seconds.
        samples: float32 `[n]` at 16 kHz.
        speech: highest probability of speech in it, by voice activity; None if there is no detector.
    """

    start: float
    end: float
    samples: Samples
    speech: float | None = None


@dataclass
class Transcript:
    """What was said in a segment.

    Attributes:
        text: written down; empty if nobody spoke to the model.
        usage: of its request.
        token_ids, logprobs: of the answer.
    """

    text: str
    usage: Usage
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass
class TranscriptText:
    """Text of an answer without what is not part of the transcript, piece by piece."""

    _held: str = ""
    _begun: bool = field(default=False)

    def add(self, piece: str) -> str:
        """What of the text so far is new. Held back until it is clear whether it is the prefix."""
        if self._begun:
            return piece
        self._held += piece
        text = self._held.lstrip()
        if len(text) < 12 and "i hear: ".startswith(text.lower()[:8]):
            return ""
        return self._begin(text)

    def finish(self) -> str:
        """The rest."""
        return "" if self._begun else self._begin(self._held.lstrip())

    def _begin(self, text: str) -> str:
        self._begun = True
        found = PREFIX.match(text)
        if not found:
            return text
        rest = text[found.end() :]
        return rest[:1].upper() + rest[1:]


def transcript_tokens(tokens: Sequence[TokenLogprob]) -> Sequence[TokenLogprob]:
    """Tokens of an answer without those of the prefix."""
    text = ""
    for count, token in enumerate(tokens, start=1):
        text = (text + token.text).lstrip()
        if PREFIX.match(text):
            return tokens[count:]
        if not "i hear:".startswith(text.lower()[:7]):
            break
    return tokens


def submit_transcription(
    server: Server, audio: Audio, tenant: Tenant, *, temperature: float = 0.0, logprobs: bool = False,
    priority: int = 0,
) -> Handle:  # fmt: skip
    """Ask the model to write down a clip. Read its events through `TranscriptText`.

    Raises:
        ApiError, VitaError: as `Server.submit`.
    """
    params = SamplingParams(
        max_tokens=server.options.limits.tokens, temperature=temperature, stop=STOP, logprobs=1 if logprobs else 0
    )
    return server.submit([Message("user", (Text(INSTRUCTION), audio))], params, tenant, priority=priority)


async def transcribe(server: Server, handle: Handle) -> Transcript:
    """Wait for what `submit_transcription` asked.

    Raises:
        ApiError, VitaError: the request failed, took too long, or was cancelled.
    """
    events = [event async for event in handle.coalesced(DELTA_SECONDS)]
    done = next(event for event in events if isinstance(event, Done))
    check_ended(server, done)
    text = TranscriptText()
    whole = text.add(Result.collect(events).text) + text.finish()
    said = "" if done.state == "noise" else whole.strip()
    return Transcript(said, done.usage, done.token_ids, done.logprobs)


async def transcript_deltas(server: Server, handle: Handle, ended: list[Done]) -> AsyncGenerator[str, None]:
    """Pieces of a transcript while it is generated; the last event is added to `ended`."""
    text = TranscriptText()
    async for event in handle.coalesced(DELTA_SECONDS):
        if isinstance(event, TextDelta):
            piece = text.add(event.text)
        elif isinstance(event, Done):
            check_ended(server, event)
            ended.append(event)
            piece = text.finish()
        else:
            continue
        if piece:
            yield piece


def read_recording(server: Server, audio: Audio, gone: Sequence[bool] = ()) -> Samples:
    """Decode a recording in a decode process: float32 `[n]` at 16 kHz. Blocks; call it in a thread.

    Raises:
        MediaError: not audio, or over a limit. Cancelled: the client is gone.
    """
    options: MediaOptions = server.options.media
    guard = ReadGuard.start(options.policy.deadline, lambda: any(gone))
    turn = server.media.read_turn(Message("user", (audio,)), options, Stopwatch(), guard)
    pieces = [piece for piece in turn.pieces if not isinstance(piece, str)]
    windows = [array for piece in pieces for span in piece.spans for array in span.data]
    samples: Samples = np.concatenate(windows)[: max(1, round(turn.audio_seconds * SAMPLE_RATE))]
    return samples


def find_segments(samples: Samples, vad: SileroVad | None, *, cut: bool) -> list[Segment]:
    """Where somebody speaks. Takes 1 % of the recording's duration; call it in a thread.

    Args:
        samples: float32 `[n]` at 16 kHz.
        vad: None: all of the recording is taken for speech.
        cut: without, all of it, or nothing if nobody speaks: a model writes words down for silence, too.
    """
    seconds = len(samples) / SAMPLE_RATE
    if vad is None:
        return [Segment(0.0, seconds, samples)]
    from vita.speech.listener import Listener
    from vita.speech.vad import VadStream

    if not cut:
        speech = max(VadStream(vad).feed(samples), default=1.0)
        return [Segment(0.0, seconds, samples, speech)] if speech >= NOBODY_SPEAKS else []
    listener = Listener(vad, CUT)
    padded = np.concatenate([samples, np.zeros(SAMPLE_RATE, np.float32)])  # silence that ends the last turn
    found = []
    for heard in listener.feed(padded):
        event = heard.event
        if isinstance(event, SpeechStopped):
            end = min(len(samples), event.end)
            piece = samples[event.start : end]
            speech = max(VadStream(vad).feed(piece), default=0.0)
            found.append(Segment(event.start / SAMPLE_RATE, end / SAMPLE_RATE, piece, speech))
    return found


def segment_audio(segment: Segment) -> Audio:
    """A segment as a source."""
    return Audio(Array(np.ascontiguousarray(segment.samples), "the audio"), SAMPLE_RATE)
