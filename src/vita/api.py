"""The Python surface: load a model, ask it, stream from it, talk with it.

A thin layer over `engine`: it builds messages, collects events, and bridges to asyncio.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vita.checkpoint.load import Progress
from vita.checkpoint.lora import merge_lora
from vita.checkpoint.open import open_checkpoint
from vita.engine.engine import Engine
from vita.errors import RequestError
from vita.events import Event, Result, TextDelta
from vita.media.source import kept
from vita.options import MAX_QUEUE, EngineOptions
from vita.types import Audio, MediaOptions, Message, SamplingParams, Source, Text, Video, assistant, system, user


def load(
    model: str | Path | None = None,
    *,
    base: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    kv_cache: str | None = None,
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
        max_queue: requests that may wait.
        progress: called as `progress(part, done, total)` while tensors are read.
        fit: deprecated name of `memory`.

    Raises:
        RequestError: an option that does not exist. CheckpointError: not a VITA-1.5 checkpoint, or damaged.
        ResourceError: the model is larger than the memory, or no such device. DownloadError: a hub id that cannot be
        fetched.
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
    if base is not None:
        if model is None:
            raise RequestError(
                "needs a model, the LoRA folder", where="base", fix="name the adapter's folder as the model"
            )
        checkpoint = merge_lora(open_checkpoint(base, offline=options.offline), Path(model))
    else:
        checkpoint = open_checkpoint(model, offline=options.offline)
    return Vita(Engine(checkpoint, options, progress))


class Vita:
    """A loaded model. Safe to call from several threads: requests take turns, token by token."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def stream(
        self,
        messages: Sequence[Message] | Message,
        params: SamplingParams | None = None,
        *,
        options: MediaOptions | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Events of an answer: `TextDelta`s, then `Done`. Arguments and errors as in `Engine.stream`."""
        conversation = [messages] if isinstance(messages, Message) else messages
        return self.engine.stream(conversation, params, options, cancelled)

    def ask(
        self,
        question: str | None = None,
        *,
        images: Iterable[Source] = (),
        videos: Iterable[Source | Video] = (),
        audios: Iterable[Source | Audio] = (),
        system_text: str | None = None,
        params: SamplingParams | None = None,
        options: MediaOptions | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Result:
        """One question, one whole answer.

        Args:
            question: typed words; may be left out if there is a sound.
            images, videos, audios: paths, URLs, bytes or arrays, shown before the question in this order.
            system_text: replaces the built-in system text.

        Raises:
            RequestError: nothing was asked, or it does not fit. MediaError: a file that cannot be used.
        """
        messages = [user(question, images=images, videos=videos, audios=audios)]
        if system_text is not None:
            messages.insert(0, system(system_text))
        return Result.collect(self.stream(messages, params, options=options, cancelled=cancelled))

    async def aask(self, question: str | None = None, **options: object) -> Result:
        """`ask` without blocking the event loop; cancelling the task stops the answer at the next token."""
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self.ask, question, cancelled=stop.is_set, **options)  # type: ignore[arg-type]
        finally:
            stop.set()

    async def astream(
        self,
        messages: Sequence[Message] | Message,
        params: SamplingParams | None = None,
        *,
        options: MediaOptions | None = None,
    ) -> AsyncIterator[Event]:
        """`stream` for asyncio; leaving the loop early stops the answer at the next token."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        stop = threading.Event()

        def post(item: Event | BaseException | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def work() -> None:
            try:
                for event in self.stream(messages, params, options=options, cancelled=stop.is_set):
                    post(event)
                post(None)
            except BaseException as error:
                post(error)  # raised again where the caller waits

        thread = threading.Thread(target=work, name="vita-astream", daemon=True)
        thread.start()
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()

    def chat(self, *, system_text: str | None = None, options: MediaOptions | None = None) -> Chat:
        """A conversation that remembers its turns."""
        return Chat(self, system_text, options)


def _kept(message: Message, options: MediaOptions) -> Message:
    """The message with its media as they can be read again in every later turn."""
    parts = [
        p if isinstance(p, Text) or isinstance(p.source, (list, tuple))
        else replace(p, source=kept(p.source, options, type(p).__name__.lower()))
        for p in message.parts
    ]  # fmt: skip
    return Message(message.role, tuple(parts))


class Chat:
    """A conversation: each `send` adds a turn, each finished answer too."""

    def __init__(self, model: Vita, system_text: str | None = None, options: MediaOptions | None = None) -> None:
        self.model = model
        self.options = options
        self._system = [system(system_text)] if system_text is not None else []
        self.turns: list[Message] = []

    def send(
        self, message: Message, params: SamplingParams | None = None, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Stream the answer to a user turn. A turn that fails leaves the conversation as it was."""
        pieces: list[str] = []
        message = _kept(message, self.options or MediaOptions())
        conversation = [*self._system, *self.turns, message]
        for event in self.model.stream(conversation, params, options=self.options, cancelled=cancelled):
            if isinstance(event, TextDelta):
                pieces.append(event.text)
            else:
                self.turns += [message, assistant("".join(pieces))]
            yield event

    def ask(
        self,
        question: str | None = None,
        *,
        images: Iterable[Source] = (),
        videos: Iterable[Source | Video] = (),
        audios: Iterable[Source | Audio] = (),
        params: SamplingParams | None = None,
    ) -> Result:
        """The next turn and its whole answer; arguments and errors as in `Vita.ask`."""
        return Result.collect(self.send(user(question, images=images, videos=videos, audios=audios), params))

    def reset(self) -> None:
        """Forget every turn."""
        self.turns.clear()
