"""A model that vLLM computes, for the surfaces of `vita serve`: see `vita.serve.served_model.ServedModel`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from vita.checkpoint.open import open_checkpoint
from vita.engine.handle import Handle
from vita.engine.metrics import Stats
from vita.options import EngineOptions
from vita.plugins.vllm.engine import VllmEngine
from vita.serve.engines import refuse_checkpoint_voice
from vita.speech.answer import open_speaker
from vita.speech.stream import SpeechStream, speak_text
from vita.types import MediaOptions, Message, SamplingParams, SpeechOptions


class VllmModel:
    """A loaded model. Safe to use from several threads.

    Args:
        engine: answers the requests.
        name: of the model, as the caller gave it.
    """

    checkpoint_voice = None  # vLLM does not compute the speech decoder

    def __init__(self, engine: VllmEngine, name: str) -> None:
        self.engine, self.name = engine, name

    def __repr__(self) -> str:
        return f"<model {self.name!r}: vLLM, context of {self.engine.model.config.context:,} tokens>"

    def submit(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *,
        options: MediaOptions | None = None, priority: int = 0, deadline: float | None = None, cache_salt: str = "",
        speech: SpeechOptions | str | bool = False,
    ) -> Handle:  # fmt: skip
        """Queue a request; arguments and errors as for `vita.Vita.submit`."""
        wanted = SpeechOptions.of(speech)
        speak = None
        if wanted is not None:
            refuse_checkpoint_voice(wanted.voice)
            speak = open_speaker(wanted, params, None)
        handle = self.engine.submit(
            messages, params, options, priority=priority, deadline=deadline, cache_salt=cache_salt
        )
        return handle if speak is None else speak(handle)

    def speak(
        self, text: str, *, voice: str | None = None, language: str | None = None, speed: float = 1.0,
        seed: int | None = None,
    ) -> SpeechStream:  # fmt: skip
        """Speak a text; arguments and errors as for `vita.Vita.speak`."""
        refuse_checkpoint_voice(voice)
        return speak_text(text, SpeechOptions(voice=voice, language=language, speed=speed, seed=seed), None)

    def stats(self) -> Stats:
        """Counts of requests, use of the KV cache, latencies."""
        return self.engine.stats()

    def warm_up(self) -> None:
        """Nothing is left to load: vLLM has run the model on its largest inputs."""

    def close(self) -> None:
        """Cancel every request and end vLLM."""
        self.engine.close()

    def __enter__(self) -> VllmModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_vllm(model: str | None, options: EngineOptions, arguments: Mapping[str, object]) -> VllmModel:
    """Load a model into a vLLM engine.

    Args:
        model: folder or hub id; None: the embedded model.
        options: checked by `vita.serve.engines.check_engine`.
        arguments: more of vLLM's engine arguments.

    Raises:
        CheckpointError: not a VITA-1.5 checkpoint, or one that vLLM cannot serve. DownloadError: a hub id that cannot
            be fetched. RequestError, ResourceError: as for `VllmEngine`.
    """
    if options.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # vLLM's processes, too
    checkpoint = open_checkpoint(model, offline=options.offline)
    return VllmModel(VllmEngine(str(checkpoint.folder), options, arguments), "default" if model is None else model)
