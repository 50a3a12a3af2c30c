"""What a speech recogniser hears: pocketsphinx with the model of its package."""

from __future__ import annotations

import re

import numpy as np
import soxr
from numpy.typing import NDArray
from pocketsphinx import Decoder

from vita.speech.audio_file import to_int16
from vita.speech.voice import SAMPLE_RATE

RATE = 16_000


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


class Recogniser:
    """Loaded once."""

    def __init__(self) -> None:
        self._decoder = Decoder(samprate=RATE, loglevel="FATAL")

    def hear(self, samples: NDArray[np.float32]) -> list[str]:
        """The words in mono audio at 24 kHz."""
        quiet = np.zeros(SAMPLE_RATE // 4, np.float32)
        pcm = to_int16(soxr.resample(np.concatenate([quiet, samples, quiet]), SAMPLE_RATE, RATE))
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return [] if found is None else words_of(found.hypstr)


def edits(heard: list[str], said: list[str]) -> int:
    """Words that were changed, left out or added."""
    row = list(range(len(said) + 1))
    for i, one in enumerate(heard, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(said, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]
