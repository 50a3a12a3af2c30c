"""The Python surface: load a model, ask it, stream from it, talk with it.

A thin layer over `vita.engine`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vita.checkpoint.load import Progress
from vita.checkpoint.lora import open_merged
from vita.engine.engine import Engine
from vita.engine.handle import Handle
from vita.engine.metrics import Stats
from vita.engine.session import Session
from vita.errors import RequestError
from vita.events import Event, Result
from vita.options import MAX_QUEUE, Dtype, EngineOptions, Quantize
from vita.prompt.turn_reader import PreparedTurn
from vita.sources import Frames, Source
from vita.types import (
    Audio,
    Audios,
    Image,
    Images,
    MediaOptions,
    Message,
    SamplingParams,
    SpeechOptions,
    Video,
    Videos,
    system,
    user,
)

if TYPE_CHECKING:
    from vita.speech.stream import SpeechStream
    from vita.speech.voice import Voice


def load(
    model: str | Path | None = None,
    *,
    base: str | Path | None = None,
    device: str = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize | Literal["none"] | None = None,
    kv_cache: Literal["auto", "int8"] | None = None,
    memory: str | None = None,
    offline: bool = False,
    threads: int | None = None,
    kv_budget: int | None = None,
    max_queue: int = MAX_QUEUE,
    progress: Progress | None = None,
    fit: str | None = None,
) -> Vita:
    """Load a model.

    Args:
        model: a checkpoint folder, a hub id such as "VITA-MLLM/VITA-1.5", or None for the embedded model.
        base: if given, `model` is a LoRA folder that is merged into this checkpoint.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        dtype: "auto" (the checkpoint's own where the device computes it fast), "float32", "float16" or "bfloat16".
        quantize: "int8" or "int4" quantises the decoder's linear layers: less memory, faster answers; "int8+encoders"
            and "int4+encoders" also quantise the encoders' to eight bits.
        kv_cache: "int8" holds keys and values in eight bits: half the memory of a long conversation.
        memory: limit of the whole process, a size such as "4GB", or "auto": loads the least quantised variant within
            it. Not together with `quantize`.
        offline: never use the network.
        threads: CPU threads that compute; None: automatic.
        kv_budget: bytes for the KV caches of all requests; None: automatic.
        max_queue: requests that may wait behind the 64 that may run; one more raises `QueueFull`.
        progress: called as `progress(part, done, total)` while tensors are read.
        fit: deprecated name of `memory`.

    Raises:
        RequestError: an option that does not exist.
        CheckpointError: not a VITA-1.5 checkpoint, or damaged.
        ResourceError: the model is larger than the memory, or no such device.
        DownloadError: a hub id that cannot be fetched.
    """
    if fit is not None:
        warnings.warn("fit is called memory now", DeprecationWarning, stacklevel=2)
        if memory is not None:
            raise RequestError("is the old name of memory", where="fit", fix="leave it out")
    options = EngineOptions(
        device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, memory=memory if fit is None else fit,
        offline=offline, threads=threads, kv_budget=kv_budget, max_queue=max_queue,
    )  # fmt: skip
    return load_with_options(model, options, base=base, progress=progress)


def load_with_options(
    model: str | Path | None, options: EngineOptions, *, base: str | Path | None = None,
    progress: Progress | None = None,
) -> Vita:  # fmt: skip
    """Load a model; arguments and errors as in `load`."""
    for name, value in (("model", model), ("base", base)):
        if value is not None and not isinstance(value, (str, PathLike)):
            raise RequestError(f"must be a folder or a hub id, not {type(value).__name__}", where=name)
    if progress is not None and not callable(progress):
        raise RequestError(f"must be a function, not {type(progress).__name__}", where="progress")
    checkpoint = open_merged(model, base, offline=options.offline)
    return Vita(Engine(checkpoint, options, progress), "default" if model is None else str(model))


class Vita:
    """A loaded model. Safe to use from several threads: requests share decode steps.

    Args:
        engine: answers the requests.
        name: of the model, as the caller gave it.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name
        self._voice: list[Voice | None] = []  # once it was looked for
        self._voice_lock = threading.Lock()

    def __repr__(self) -> str:
        loaded = self.engine.model
        parts = [
            f"{sum(loaded.parameters.values()) / 1e6:,.1f} million parameters",
            f"{str(loaded.dtype).removeprefix('torch.')} on {loaded.device}",
            f"context of {loaded.config.context:,} tokens",
        ]
        if loaded.quantize is not None:
            parts.insert(1, f"quantised to {loaded.quantize}")
        if not self.engine.is_healthy:
            parts.append("closed" if self.engine.core.failure is None else "failed")
        return f"<vita.Vita {self.name!r}: {', '.join(parts)}>"

    def submit(
        self, messages: Sequence[Message] | Message, params: SamplingParams | None = None, *,
        options: MediaOptions | None = None, session: Session | None = None, priority: int = 0,
        deadline: float | None = None, cache_salt: str = "", speech: SpeechOptions | str | bool = False,
    ) -> Handle:  # fmt: skip
        """Queue a request and return at once.

        Args:
            messages: turns, oldest first, the last one the user's; with a session the new turn only.
            params: how tokens are chosen; default: greedy.
            options: how media are read; a session has its own.
            session: continues this conversation.
            priority: requests with a lower value are served first.
            deadline: seconds from now after which the request is cancelled.
            cache_salt: requests with another salt neither use nor see what this one leaves in the caches.
            speech: also speak the answer: `SpeechChunk` events follow the text they speak, from the first clause on.
                True: with the best voice; a string: with the voice of this name.

        Raises:
            RequestError: parameters, roles or types that cannot be used, no such voice, or it does not speak the
                language. Media and length errors are raised by the handle.
            QueueFull: too many requests wait.
            ResourceError: no voice is installed.
        """
        if session is not None:
            if options is not None or cache_salt:
                fix = "pass them to session()"
                raise RequestError("are the session's own", where="options and cache_salt", fix=fix)
            if len(turns := _as_turns(messages)) != 1:
                raise RequestError(f"a session takes one message at a time, not {len(turns)}", where="messages")
            return session.submit(turns[0], params, priority=priority, deadline=deadline, speech=speech)
        wanted = SpeechOptions.of(speech)
        speak = None if wanted is None else self._speaker(wanted, params)
        handle = self.engine.submit(
            _as_turns(messages), params, options, priority=priority, deadline=deadline, cache_salt=cache_salt
        )
        return handle if speak is None else speak(handle)

    def _speaker(self, options: SpeechOptions, params: SamplingParams | None) -> Callable[[Handle], Handle]:
        """A function that speaks the answers of one request, whose voices are open.

        Raises:
            RequestError: there is no such voice, or a parameter is wrong. ResourceError: no voice is installed.
        """
        from vita.speech.answer import open_speaker

        return open_speaker(options, params, self._voice_for(options), self.engine.computing)

    @property
    def checkpoint_voice(self) -> Voice | None:
        """The checkpoint's own voice, loaded on first use or by `warm_up`; None if it has no speech decoder.

        Raises:
            CheckpointError: the speech checkpoint cannot be used.
        """
        from vita.speech.checkpoint_voice import open_checkpoint_voice

        with self._voice_lock:
            if not self._voice:
                self._voice.append(open_checkpoint_voice(self.engine))
            return self._voice[0]

    def speak(
        self, text: str, *, voice: str | None = None, language: str | None = None, speed: float = 1.0,
        seed: int | None = None,
    ) -> SpeechStream:  # fmt: skip
        """Speak a text: iterate for `SpeechChunk`s, or `read()` all of it as one array at 24 kHz.

        Args:
            text: plain text, or Markdown.
            voice, language, speed, seed: see `SpeechOptions`.

        Raises:
            RequestError: the text is empty, the speed is not 0.25 to 4, or there is no such voice. ResourceError: no
            voice is installed. Iterating raises RequestError where nothing in the text can be spoken.
        """
        from vita.speech.stream import speak_text

        options = SpeechOptions(voice=voice, language=language, speed=speed, seed=seed)
        return speak_text(text, options, self._voice_for(options), computing=self.engine.computing)

    def _voice_for(self, options: SpeechOptions) -> Voice | None:
        """The checkpoint's own voice, unless another one is named."""
        from vita.speech.voice import may_be_checkpoints

        return self.checkpoint_voice if may_be_checkpoints(options.voice) else None

    def session(
        self, system: str | None = None, *, options: MediaOptions | None = None, cache_salt: str = ""
    ) -> Session:
        """A conversation whose media are decoded once and whose prefix stays in the cache."""
        return Session(self.engine, system, options, cache_salt, self._speaker)

    def stream(
        self,
        messages: Sequence[Message] | Message,
        params: SamplingParams | None = None,
        *,
        options: MediaOptions | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[Event]:
        """Events of an answer: `Started`, `ReasoningDelta`s of a model that reasons, `TextDelta`s, `Done`.

        Of `n` answers each has these, with its `index`. Leaving the loop early cancels.

        Args:
            messages, params, options: as for `submit`, whose errors are raised at once.
            cancelled: asked every 50 ms; once true, the answer ends with `finish_reason` "cancelled".
        """
        return self.submit(messages, params, options=options).iterate(cancelled)

    def ask(
        self,
        question: str | None = None,
        *,
        image: Source | Image | None = None,
        images: Images = (),
        video: Source | Frames | Video | None = None,
        videos: Videos = (),
        audio: Source | Audio | None = None,
        audios: Audios = (),
        system_text: str | None = None,
        params: SamplingParams | None = None,
        options: MediaOptions | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Result:
        """One question, one whole answer.

        Args:
            question: typed text; may be left out if there is audio.
            image, video, audio: a path, URL, bytes, an open binary file, an array or PIL image; `vita.Video` and
                `vita.Audio` say more about it. A list of images as `video` is taken as its frames.
            images, videos, audios: several of them; a single one counts as a list of one.
            system_text: replaces the built-in system text.
            params, options, cancelled: as for `stream`.

        Raises:
            RequestError: nothing was asked, it does not fit, or an argument is of a wrong type. MediaError: a file that
            cannot be used.
        """
        message = user(question, image=image, images=images, video=video, videos=videos, audio=audio, audios=audios)
        return self.submit(_with_system(message, system_text), params, options=options).result(cancelled)

    async def aask(
        self,
        question: str | None = None,
        *,
        image: Source | Image | None = None,
        images: Images = (),
        video: Source | Frames | Video | None = None,
        videos: Videos = (),
        audio: Source | Audio | None = None,
        audios: Audios = (),
        system_text: str | None = None,
        params: SamplingParams | None = None,
        options: MediaOptions | None = None,
    ) -> Result:
        """`ask` for asyncio; cancelling the task cancels the request."""
        message = user(question, image=image, images=images, video=video, videos=videos, audio=audio, audios=audios)
        return await self.submit(_with_system(message, system_text), params, options=options).aresult()

    async def astream(
        self,
        messages: Sequence[Message] | Message,
        params: SamplingParams | None = None,
        *,
        options: MediaOptions | None = None,
    ) -> AsyncIterator[Event]:
        """`stream` for asyncio."""
        handle = self.submit(messages, params, options=options)
        try:
            async for event in handle:
                yield event
        finally:
            handle.cancel()

    def chat(self, *, system_text: str | None = None, options: MediaOptions | None = None) -> Chat:
        """A conversation that remembers its turns."""
        return Chat(self.session(system_text, options=options))

    def warm_up(self) -> None:
        """Load every part of the model now, its voice too, so that no request waits for it."""
        self.engine.warm_up()
        _ = self.checkpoint_voice

    def stats(self) -> Stats:
        """Counts of requests, use of the KV cache, hits of the caches, latencies."""
        return self.engine.stats()

    def close(self) -> None:
        """Cancel every request and end the engine's thread; the model cannot be used any more."""
        self.engine.close()

    def __enter__(self) -> Vita:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_turns(messages: Sequence[Message] | Message) -> Sequence[Message]:
    if isinstance(messages, str) or not isinstance(messages, Iterable | Message):
        raise RequestError(
            f"must be a message or a list of them, not {type(messages).__name__}", where="messages",
            fix="make one with vita.user(), or use ask()",
        )  # fmt: skip
    return [messages] if isinstance(messages, Message) else list(messages)


def _with_system(message: Message, system_text: str | None) -> list[Message]:
    return [message] if system_text is None else [system(system_text), message]


class Chat:
    """A conversation: each `send` adds a turn, each answer too. A `Session` with a loop around its handles."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __repr__(self) -> str:
        return f"<vita.Chat of {len(self.turns)} turns>"

    @property
    def turns(self) -> tuple[PreparedTurn, ...]:
        """The history: user and assistant turns, oldest first."""
        return self.session.turns

    def send(
        self, message: Message, params: SamplingParams | None = None, cancelled: Callable[[], bool] | None = None
    ) -> Iterator[Event]:
        """Stream the answer to a user turn. A turn that fails leaves the conversation as it was; an answer that is
        cancelled stays as far as it was given out."""
        return self.session.submit(message, params).iterate(cancelled)

    def ask(
        self,
        question: str | None = None,
        *,
        image: Source | Image | None = None,
        images: Images = (),
        video: Source | Frames | Video | None = None,
        videos: Videos = (),
        audio: Source | Audio | None = None,
        audios: Audios = (),
        params: SamplingParams | None = None,
    ) -> Result:
        """The next turn and its whole answer; arguments and errors as for `Vita.ask`."""
        message = user(question, image=image, images=images, video=video, videos=videos, audio=audio, audios=audios)
        return Result.collect(self.send(message, params))

    def reset(self) -> None:
        """Forget every turn."""
        self.session.reset()
