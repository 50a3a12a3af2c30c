"""Options of speech that several commands share, and where the audio goes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from vita.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vita.api import Vita
    from vita.engine.handle import Handle
    from vita.speech.voice import Voice
    from vita.types import SpeechOptions

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
SPEECH = "Speech"  # panel of the help text
Speak = Callable[["Handle"], "Handle"]  # from a request that nobody has read to the same with its speech

SpeakTo = Annotated[
    str | None,
    typer.Option(
        "--speak", metavar="FILE", rich_help_panel=SPEECH,
        help="Also speak the answer into a wav, flac, ogg, opus, mp3, aac or raw file; - writes raw PCM to stdout.",
    ),
]  # fmt: skip
Play = Annotated[
    bool, typer.Option("--play", metavar="", help="Speak the answer on the audio device.", rich_help_panel=SPEECH)
]
SpeakAnswers = Annotated[
    bool,
    typer.Option(
        "--speak", metavar="", rich_help_panel=SPEECH,
        help="Speak the answers on the audio device; /voice switches while you chat.",
    ),
]  # fmt: skip
VoiceName = Annotated[
    str | None,
    typer.Option("--voice", metavar="NAME", help="vita, piper, espeak, …; default: the best.", rich_help_panel=SPEECH),
]
Speed = Annotated[
    float, typer.Option("--speed", metavar="NUMBER", help="0.25 to 4; 1 is normal.", rich_help_panel=SPEECH)
]
Language = Annotated[
    str | None,
    typer.Option(
        "--language", metavar="CODE", rich_help_panel=SPEECH,
        help="Language of Latin letters, such as de; default: en. Other scripts name their own.",
    ),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SpeechFlags:
    """Whether and how an answer is spoken.

    Attributes:
        file: a path, "-" for raw PCM on stdout, or None.
        play: on the audio device.
        options: the voice.
    """

    file: str | None
    play: bool
    options: SpeechOptions

    @property
    def to_stdout(self) -> bool:
        """Whether stdout holds audio, and so nothing else."""
        return self.file == "-"


def speech_flags(
    *, speak: str | None, play: bool, voice: str | None, speed: float, language: str | None = None,
    seed: int | None = None,
) -> SpeechFlags | None:  # fmt: skip
    """The flags of a command; None if nothing is spoken. What can be refused before a model is loaded is refused here.

    Raises:
        RequestError: no such audio format, voice or speed, or an option of speech without --speak or --play.
        ResourceError: no voice is installed.
    """
    from vita.types import SpeechOptions

    options = SpeechOptions(voice=voice, language=language, speed=speed, seed=seed)
    if speak is None and not play:
        _refuse_without_speech(options, "add --speak FILE or --play")
        return None
    from vita.speech.audio_file import format_of

    if speak in STDOUT:
        speak = "-"  # so that the text goes to stderr
    elif speak is not None:
        format_of(speak)
    _check(options)
    return SpeechFlags(file=speak, play=play, options=options)


def chat_speech(
    *, speak: bool, listen: bool, voice: str | None, speed: float, language: str | None, seed: int | None
) -> SpeechOptions:
    """How the answers of a chat are spoken, checked as in `speech_flags`.

    Args:
        speak, listen: the flags with which they are.
        voice, speed, language, seed: see `SpeechOptions`.

    Raises:
        RequestError: no such voice or speed, or an option of speech without --speak or --listen.
        ResourceError: the voice is not installed.
    """
    from vita.types import SpeechOptions

    options = SpeechOptions(voice=voice, language=language, speed=speed, seed=seed)
    if speak or listen:
        _check(options)
    else:
        _refuse_without_speech(options, "add --speak or --listen")
    return options


def _refuse_without_speech(options: SpeechOptions, fix: str) -> None:
    """Refuse options of speech where nothing is spoken, each by its flag."""
    from vita.types import SpeechOptions

    given = {"--voice": options.voice is not None, "--language": options.language is not None,
             "--speed": options.speed != SpeechOptions().speed}  # fmt: skip
    flags = [flag for flag, is_given in given.items() if is_given]
    if flags:
        is_about = "is" if len(flags) == 1 else "are"
        raise RequestError(f"{is_about} about speech", where=" and ".join(flags), fix=fix)


def _check(options: SpeechOptions) -> None:
    """Refuse what can be refused before a model is loaded."""
    from vita.speech.voice import (
        CHECKPOINT_VOICE,
        available_voices,
        check_language,
        check_speed,
        checkpoint_speaks,
        choose_voice,
        may_be_checkpoints,
        not_spoken,
        voices_by_language,
    )  # fmt: skip

    check_speed(options.speed)
    voice, language = options.voice, options.language
    if voice is not None and voice != CHECKPOINT_VOICE:
        choose_voice(voice)
    if language is None or (may_be_checkpoints(voice) and checkpoint_speaks(language)):
        return
    if voice == CHECKPOINT_VOICE:
        raise not_spoken(voice, language)
    if available_voices():
        check_language(voices_by_language(voice), voice, language)


def checkpoint_voice(model: Vita, options: SpeechOptions) -> Voice | None:
    """The checkpoint's own voice, unless another one is named.

    Raises:
        CheckpointError: it cannot be used.
    """
    from vita.speech.voice import may_be_checkpoints

    return model.checkpoint_voice if may_be_checkpoints(options.voice) else None


def speaker(model: Vita, options: SpeechOptions) -> Speak:
    """A function that speaks an answer.

    Raises:
        RequestError: there is no such voice. ResourceError: it, or every voice, is not installed.
    """
    from vita.speech.answer import speak_answers
    from vita.speech.stream import stream_for

    voice = checkpoint_voice(model, options)
    stream_for(options, voice).close()  # raises now, not with the first answer
    return lambda handle: speak_answers(handle, [stream_for(options, voice)])


class Sink:
    """Takes audio, and hands it to the file, stdout and the device that were asked for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._writers: list[Writer] = []

    def add(self, writer: Writer) -> None:
        """Also write there."""
        self._writers.append(writer)

    def write(self, samples: NDArray[np.float32]) -> None:
        """Mono audio at 24 kHz, [n] float32 in -1..1."""
        self.seconds += len(samples) / 24_000
        for writer in self._writers:
            writer.write(samples)


if TYPE_CHECKING:
    from typing import Protocol

    class Writer(Protocol):
        """A file or a device."""

        def write(self, samples: NDArray[np.float32]) -> None: ...


@contextlib.contextmanager
def open_sink(flags: SpeechFlags) -> Iterator[Sink]:
    """Open what the flags name; a file appears once the block ends without an error or a signal.

    Raises:
        RequestError: the file cannot be written. ResourceError: there is no audio device.
    """
    from vita.cli.signals import exit_by_signals
    from vita.speech.audio_file import AudioFile, encoder

    sink = Sink()
    with exit_by_signals(), contextlib.ExitStack() as stack:
        if flags.to_stdout:
            sink.add(encoder(sys.stdout.buffer, "raw"))
        elif flags.file is not None:
            sink.add(stack.enter_context(AudioFile(flags.file)))
        if flags.play:
            from vita.speech.player import Player

            sink.add(stack.enter_context(Player()))
        yield sink
    if not sink.seconds:
        what = f", so {flags.file} was not written" if flags.file not in (None, "-") else ""
        sys.stderr.write(f"vita: note: nothing was spoken{what}.\n")
