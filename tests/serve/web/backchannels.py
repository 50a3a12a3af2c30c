"""Short words of a listener ("hmm", "yeah"), and what the page sees of them: levels and the server's events."""

from __future__ import annotations

from typing import Any

import numpy as np

from vita.speech.listener import Listener
from vita.speech.turns import SpeechStarted, SpeechStopped, TurnOptions
from vita.speech.vad import SAMPLE_RATE, SileroVad
from vita.speech.voice import Voice

RATE = 24_000
PIECE = 960  # samples: 40 ms, as worklets.js cuts them
PIECE_MS = 40
WORDS = ("Hmm.", "Uh-huh.", "Yeah.", "Okay.", "Right.", "I see.", "Aha.", "Sure.", "Yes.", "Mm.")
SPEEDS = (1.0, 1.1, 1.2, 1.3, 1.4)
Samples = np.ndarray[Any, np.dtype[np.float32]]
# Runs the page's own decision over the steps of many clips; `clips` and `BargeIn` are there.
RUN = """
  const run = (steps) => {
    const machine = new BargeIn(), done = [];
    for (let n = 0; n < 50; n++) machine.piece(0.002, 40, true);
    for (const [kind, value] of steps)
      done.push(kind === 'piece' ? machine.piece(value, 40, true)
              : kind === 'started' ? machine.started(true) : machine.ended(value, true));
    return done.filter(Boolean);
  };
  return clips.map(run);
"""


def backchannels(voice: Voice) -> list[Samples]:
    """50 of them, float32 `[n]` at 24 kHz, with a second of room noise before and after."""
    clips = []
    for speed in SPEEDS:
        stream = voice.open(language="en", speed=speed, seed=None)
        for n, word in enumerate(WORDS):
            spoken = np.concatenate(list(stream.speak(word, first=True)))
            clips.append(in_a_room(spoken, seed=n))
    return clips


def in_a_room(spoken: Samples, seed: int) -> Samples:
    """A second of faint noise before and after."""
    noise = np.random.default_rng(seed).normal(0, 0.001, 2 * RATE + len(spoken)).astype(np.float32)
    noise[RATE : RATE + len(spoken)] += spoken
    return noise


def steps(samples: Samples, vad: SileroVad) -> list[tuple[str, float]]:
    """What the page is told while it plays an answer: `("piece", level)` for each 40 ms of the microphone,
    `("started", 0)` and `("ended", milliseconds of speech)` by the server."""
    listener, found = Listener(vad, TurnOptions(), RATE), list[tuple[str, float]]()
    for at in range(0, len(samples) - PIECE + 1, PIECE):
        piece = samples[at : at + PIECE]
        found.append(("piece", float(np.sqrt(np.mean(piece**2)))))
        for heard in listener.feed(piece):
            event = heard.event
            if isinstance(event, SpeechStarted):
                begin = event.start
                found.append(("started", 0.0))
            elif isinstance(event, SpeechStopped):
                # As talk.js computes it from the events' times.
                found.append(("ended", (event.end - begin) * 1000 / SAMPLE_RATE - 300 - 500))
    return found
