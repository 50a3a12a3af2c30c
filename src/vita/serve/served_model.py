"""What the server needs of a model: `vita.Vita`, or an adapter to another engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Self

    from vita.checkpoint.open import Checkpoint
    from vita.config import VitaConfig
    from vita.engine.engine import ReadTurn
    from vita.engine.handle import Handle
    from vita.engine.metrics import Stats
    from vita.prompt.processor import Processor
    from vita.prompt.tokenizer import Tokenizer
    from vita.speech.stream import SpeechStream
    from vita.speech.voice import Voice
    from vita.types import MediaOptions, Message, SamplingParams, SpeechOptions


class LoadedCheckpoint(Protocol):
    """The checkpoint that is served.

    Attributes:
        checkpoint: opened.
        config, tokenizer: of it.
        stop_ids: token ids that end an answer.
    """

    @property
    def checkpoint(self) -> Checkpoint: ...
    @property
    def config(self) -> VitaConfig: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def stop_ids(self) -> frozenset[int]: ...


class ServedEngine(Protocol):
    """The engine behind a model.

    Attributes:
        model: what it has loaded.
        processor: from messages to prompts.
        is_healthy: whether requests are taken.
    """

    @property
    def model(self) -> LoadedCheckpoint: ...
    @property
    def processor(self) -> Processor: ...
    @property
    def is_healthy(self) -> bool: ...
    def read_turn_with(self, reader: ReadTurn | None) -> None:
        """Decode media by this function from now on; None: in a thread."""


class ServedModel(Protocol):
    """A model that answers and speaks. Every method may be called from any thread.

    Attributes:
        name: of the model, as the caller gave it.
        engine: answers the requests.
        checkpoint_voice: the checkpoint's own voice; None: it has none, or the engine does not compute it.
    """

    @property
    def name(self) -> str: ...
    @property
    def engine(self) -> ServedEngine: ...
    @property
    def checkpoint_voice(self) -> Voice | None: ...

    def submit(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *,
        options: MediaOptions | None = None, priority: int = 0, deadline: float | None = None, cache_salt: str = "",
        speech: SpeechOptions | str | bool = False,
    ) -> Handle:  # fmt: skip
        """See `Vita.submit`."""

    def speak(
        self, text: str, *, voice: str | None = None, language: str | None = None, speed: float = 1.0,
        seed: int | None = None,
    ) -> SpeechStream:  # fmt: skip
        """See `Vita.speak`."""

    def stats(self) -> Stats:
        """See `Vita.stats`."""

    def warm_up(self) -> None:
        """Make it so that no request waits for a part to be loaded."""

    def close(self) -> None:
        """End every request and the engine."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
