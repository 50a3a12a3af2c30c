"""The checkpoint's voice, "vita": text of an answer in, its audio out, computed in the engine thread."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vita.checkpoint.locate import find_speech
from vita.engine.engine import Engine
from vita.errors import RequestError
from vita.speech.checkpoint import SpeechModel, load_speech
from vita.speech.join import ReferenceStreaming
from vita.speech.runner import SpeechRunner
from vita.speech.session import SpeechSession
from vita.speech.stretch import Stretch
from vita.speech.tts import SpeechSampling
from vita.speech.voice import CHECKPOINT_LANGUAGES, PIECE

Samples = NDArray[np.float32]


class CheckpointVoice:
    """A `speech.voice.Voice` over the speech decoder and codec of a checkpoint.

    Args:
        model: both parts.
        encode: text to token ids, by the model's tokenizer. Called in the thread that speaks.
        embed: ids `[n]` to rows of the text decoder's embedding table, `[n, H]`. Called in the engine thread.
        run: computes; attached to the engine.
        options: how speech tokens are chosen; the seed is that of `open`.
        reference: stream as the reference does.
    """

    name = "vita"
    languages = CHECKPOINT_LANGUAGES

    def __init__(
        self, model: SpeechModel, encode: Callable[[str], list[int]], embed: Callable[[list[int]], Tensor],
        run: SpeechRunner, *, options: SpeechSampling | None = None, reference: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.run = model, run
        self._encode, self._embed = encode, embed
        self._options = options or SpeechSampling()
        self._reference = ReferenceStreaming() if reference else None

    def open(self, *, language: str, speed: float, seed: int | None) -> CheckpointUtterances:
        """Start a stream of speech; see `speech.voice.Voice.open`."""
        return CheckpointUtterances(self, speed, seed)

    def session(self, seed: int | None) -> SpeechSession:
        """State of one stream."""
        options = self._options
        return SpeechSession(
            SpeechSampling(options.top_k, seed, options.penalty, options.window, options.max_tokens), self._reference
        )

    def speak(self, session: SpeechSession, text: str, *, first: bool) -> Generator[Samples, None, None]:
        """Pieces of one text, as large as they are made."""
        ids = self._encode(text)
        if ids:
            yield from self.run.speak(session, lambda: self._embed(ids), first=first)


class CheckpointUtterances:
    """State of one stream of speech of the checkpoint's voice; see `speech.voice.Utterances`.

    Args:
        voice: the weights.
        speed: 0.25 to 4; the audio is stretched without a change of pitch.
        seed: of the draws of speech tokens.

    Raises:
        RequestError: the speed is out of range.
    """

    def __init__(self, voice: CheckpointVoice, speed: float, seed: int | None) -> None:
        if not 0.25 <= speed <= 4:
            raise RequestError(f"must be 0.25 to 4, not {speed!r}", where="speed")
        self._voice, self._speed, self._closed = voice, speed, False
        self._session = voice.session(seed)

    def speak(self, text: str, *, first: bool) -> Iterator[Samples]:
        """Speak one clause; closing the iterator stops within 80 ms of audio. Nothing is spoken after `close`."""
        if self._closed:
            return
        with closing(self._voice.speak(self._session, text, first=first)) as pieces:
            for piece in pieces if self._speed == 1 else Stretch(self._speed).stretched(pieces):
                for start in range(0, len(piece), PIECE):
                    yield piece[start : start + PIECE]

    def reset(self) -> None:
        """The next clause is the first of another answer."""
        self._session.reset()

    def close(self) -> None:
        """Free the KV cache; what is being spoken ends. May be called from any thread."""
        self._closed = True
        self._voice.run.end_session(self._session)


def open_checkpoint_voice(engine: Engine, *, reference: bool = False) -> CheckpointVoice | None:
    """The voice of the checkpoint that an engine has loaded; None if it has none.

    Loads the speech decoder and the codec on the engine's device, in its dtype, with int8 weights if the text decoder
    is quantised; no request is computed meanwhile. Speech is computed in the engine's thread from then on.

    Args:
        engine: of the model.
        reference: see `CheckpointVoice`.

    Raises:
        CheckpointError: the speech checkpoint cannot be used. ResourceError: the engine is closed.
    """
    model = engine.model
    folder = find_speech(model.checkpoint.folder)
    if folder is None:
        return None
    loaded: list[SpeechRunner] = []

    def load() -> None:
        speech = load_speech(
            folder, device=model.device, dtype=model.dtype, quantize="int8" if model.quantize else None,
            text_size=model.config.decoder.hidden_size,
        )  # fmt: skip
        loaded.append(SpeechRunner(speech, threads=engine.core.runner.step_threads.available))

    engine.call(load)
    (run,) = loaded
    run.attach(engine)
    decoder = model.decoder

    def embed(ids: list[int]) -> Tensor:
        return decoder.embed_tokens(torch.tensor(ids, dtype=torch.int64))

    return CheckpointVoice(run.model, model.tokenizer.encode, embed, run, reference=reference)
