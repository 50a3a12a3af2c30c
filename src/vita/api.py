"""The Python surface: load a model, ask it, stream from it, talk with it.

A thin layer over `engine`: it builds messages, collects events, and bridges to asyncio.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path

from vita.checkpoint.load import Progress
from vita.checkpoint.lora import merge_lora
from vita.checkpoint.open import open_checkpoint
from vita.engine.engine import Engine
from vita.errors import RequestError
from vita.events import Event, Result, TextDelta
from vita.media.source import snapshot_part
from vita.types import Audio, MediaOptions, Message, SamplingParams, Source, Video, assistant, system, user


def load(
    model: str | Path | None = None,
    *,
    base: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    kv_cache: str | None = None,
    fit: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Vita:
    """Load a model.

    Args:
        model: a checkpoint folder, a hub id such as "VITA-MLLM/VITA-1.5", or None for the embedded one.
        base: if given, `model` is a LoRA folder that is merged into this checkpoint.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        dtype: "auto" (the checkpoint's own where the device does it well), "float32", "float16" or "bfloat16".
        quantize: "int8" or "int4" keeps the decoder's linear layers in so many bits: less memory, faster answers;
            "int4+encoders" the encoders' in eight bits too.
        kv_cache: "int8" keeps keys and values in eight bits: half the memory of a long conversation.
        fit: a size such as "4GB", or "auto": takes the least rounded variant that fits it.
        offline: never touch the network.
        progress: called as `progress(part, done, total)` while tensors are read.

    Raises:
        CheckpointError: not a VITA-1.5 checkpoint, or damaged. ResourceError: does not fit, or no such device.
        DownloadError: a hub id that cannot be fetched.
    """
    if base is not None:
        if model is None:
            raise RequestError("needs a model, the LoRA folder", where="base", fix="pass --model with the adapter")
        checkpoint = merge_lora(open_checkpoint(base, offline=offline), Path(model))
    else:
        checkpoint = open_checkpoint(model, offline=offline)
    engine = Engine(
        checkpoint, device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, fit=fit, progress=progress
    )
    return Vita(engine)


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
        options = self.options or MediaOptions()
        # Later turns show what was sent, whatever becomes of the file or array.
        message = Message(message.role, tuple(snapshot_part(part, options) for part in message.parts))
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
