"""`vita say`: speak a text."""

from __future__ import annotations

import codecs
import contextlib
import logging
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vita.cli.speech import SpeechFlags, open_sink
from vita.errors import RequestError

if TYPE_CHECKING:
    from vita.api import Vita
    from vita.options import EngineOptions
    from vita.speech.stream import SpeechStream


@dataclass(frozen=True, kw_only=True)
class Say:
    """The arguments of one call."""

    text: str | None
    speech: SpeechFlags
    model: str | None
    options: EngineOptions
    timings: bool | None
    verbose: bool


def run_say(flags: Say) -> None:
    """Speak, into a file or on the device.

    Raises:
        VitaError: anything a user can fix; no file is left then.
    """
    if flags.text is None or not flags.text.strip():
        raise RequestError("there is no text", fix='type one, as in vita say "Hello." -o hello.wav, or - to read it')
    from vita.speech.stream import stream_for

    # As `load_model` does, which most voices do without: warnings of voices are lines like the others.
    logging.basicConfig(level=logging.INFO if flags.verbose else logging.WARNING, format="vita: %(message)s")
    with open_sink(flags.speech) as sink:
        model = _model(flags)  # kept until the end: its voice computes in its engine
        own_voice = None if model is None else model.checkpoint_voice
        stream = stream_for(flags.speech.options, own_voice, strict=True)
        stdin = _StandardInput(stream)
        if flags.text == "-":
            threading.Thread(target=stdin.feed, name="vita-stdin", daemon=True).start()
        else:
            stream.feed(flags.text.encode(errors="replace").decode())  # an argument may hold bytes that are not UTF-8
            stream.finish()
        with contextlib.closing(stream):
            for chunk in stream:
                sink.write(chunk.samples)
        if stdin.error is not None:
            raise stdin.error
    for language in sorted(set(stream.unspoken)):
        sys.stderr.write(f"vita: note: parts in the language {language!r} were not spoken; try --voice espeak.\n")
    if sys.stderr.isatty() if flags.timings is None else flags.timings:
        m = stream.metrics
        sys.stderr.write(f"{m.audio:.1f} s of audio, the first after {m.first_audio:.2f} s, ")
        sys.stderr.write(f"real-time factor {m.real_time_factor:.2f}\n")


def _model(flags: Say) -> Vita | None:
    """The model whose own voice may be meant; the others need none."""
    from vita.speech.voice import CHECKPOINT_VOICE, may_be_checkpoints

    voice = flags.speech.options.voice
    if voice != CHECKPOINT_VOICE and (flags.model is None or not may_be_checkpoints(voice)):
        return None
    from vita.cli.loading import load_model

    return load_model(flags.model, flags.options, verbose=flags.verbose)


class _StandardInput:
    """Speaks standard input while it arrives, in a thread of its own.

    Attributes:
        error: that ended the reading; the stream is cancelled then.
    """

    def __init__(self, stream: SpeechStream) -> None:
        self._stream = stream
        self.error: RequestError | None = None

    def feed(self) -> None:
        """Feed all of it; a character may arrive in two pieces."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            if sys.stdin is None:  # the shell's <&-
                raise OSError("it is closed")
            while data := sys.stdin.buffer.read1(4096):  # type: ignore[union-attr]
                self._stream.feed(decoder.decode(data))
            self._stream.feed(decoder.decode(b"", final=True))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self.error = RequestError(f"cannot be read ({reason})", where="standard input", fix="pipe a text to it")
            self._stream.cancel()
        finally:
            self._stream.finish()
