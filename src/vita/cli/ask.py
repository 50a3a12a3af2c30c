"""`vita ask`: one question, one answer."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from vita.cli.loading import load_model
from vita.cli.output import print_json
from vita.cli.report import print_timings
from vita.cli.speech import Sink, SpeechFlags, open_sink
from vita.errors import RequestError, SpeechError, VitaError
from vita.events import Done, ReasoningDelta, Result, SpeechChunk, TextDelta
from vita.sources import Bytes
from vita.types import Audio, MediaOptions, Message, SamplingParams, Video, system, user

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vita.events import Event
    from vita.options import EngineOptions


@dataclass(frozen=True, kw_only=True)
class Ask:
    """The arguments of one call."""

    question: str | None
    images: tuple[str, ...]
    videos: tuple[str, ...]
    audios: tuple[str, ...]
    model: str | None
    base: str | None
    options: EngineOptions
    params: SamplingParams
    json: bool
    stream: bool
    system: str | None
    fps: float
    max_frames: int
    start: float | None
    end: float | None
    audio_from_video: bool
    max_tiles: int | None
    reference: bool
    show_reasoning: bool
    timings: bool | None
    verbose: bool
    speech: SpeechFlags | None = None


def run_ask(flags: Ask) -> None:
    """Answer and print.

    Raises:
        VitaError: anything a user can fix. Until the first token is known, and so all media are read, nothing is
        printed to stdout.
    """
    if flags.params.logprobs and not flags.json:
        raise RequestError("is part of the JSON output", where="--logprobs", fix="add --json")
    if flags.speech is not None and flags.speech.to_stdout and flags.json:
        raise RequestError("stdout holds the audio", where="--speak -", fix="leave out --json, or name a file")
    messages = build_messages(flags)
    with open_sink(flags.speech) if flags.speech is not None else contextlib.nullcontext() as sink:
        _answer(flags, messages, sink)


def _answer(flags: Ask, messages: list[Message], sink: Sink | None) -> None:
    model = load_model(flags.model, flags.options, base=flags.base, verbose=flags.verbose)
    options = MediaOptions(reference=flags.reference, max_tiles=flags.max_tiles)
    speech = False if flags.speech is None else flags.speech.options
    events: Iterable[Event] = model.submit(messages, flags.params, options=options, speech=speech)
    if sink is not None:
        events = heard(events, sink)
    if flags.json:
        result, failed = collect(events)
        print_json(as_json(result, flags.model or "default"))
        if failed is not None:
            raise failed
        return
    if flags.show_reasoning:
        events = with_reasoning(events)
    to_stdout = flags.speech is not None and flags.speech.to_stdout
    done = show_answer(events, stream=flags.stream, out=sys.stderr if to_stdout else sys.stdout)
    explain(done)
    wanted = sys.stderr.isatty() if flags.timings is None else flags.timings
    if wanted:
        print_timings(done)


def build_messages(flags: Ask) -> list[Message]:
    """The conversation of one question; standard input is read here, by at most one flag.

    Raises:
        RequestError: nothing was asked, or two flags want standard input. MediaError: it cannot be read, or is too
        large.
    """
    from_stdin = [v for v in (flags.question, *flags.images, *flags.videos, *flags.audios) if v == "-"]
    if len(from_stdin) > 1:
        raise RequestError("only one of the question and the media can be read from standard input", where="-")
    question = flags.question
    if question == "-":
        question = _read_stdin().decode(errors="replace").strip()
    if question is not None:  # an argument may hold bytes that are not UTF-8
        question = question.encode(errors="replace").decode()
    # Read once: with --audio-from-video both the frames and the audio of the clip are used.
    sources = [Bytes(_read_stdin(), "standard input") if v == "-" else v for v in flags.videos]
    videos = [Video(v, flags.fps, flags.max_frames, flags.start, flags.end) for v in sources]
    audios = [Audio(a) for a in flags.audios]
    if flags.audio_from_video:
        if not videos:
            raise RequestError("needs a --video with audio", where="--audio-from-video")
        audios = [Audio(s, from_video=True) for s in sources] + audios
    if not question and not audios:
        raise RequestError(
            "there is no question", fix='type one, as in vita ask "What is this?" --image a.png, or pass --audio'
        )
    turn = user(question, images=flags.images, videos=videos, audios=audios)
    return [turn] if flags.system is None else [system(flags.system), turn]


def _read_stdin() -> bytes:
    from vita.media.source import read_stream

    return read_stream(sys.stdin.buffer, MediaOptions(), "standard input")


def heard(events: Iterable[Event], sink: Sink) -> Iterator[Event]:
    """Hand the audio to a sink, and pass all events on.

    Raises:
        SpeechError: in place of `Done`, if the sink takes no more: a disk is full, or the loudspeaker is gone.
    """
    failed: VitaError | None = None
    for event in events:
        if isinstance(event, SpeechChunk) and failed is None:
            try:
                sink.write(event.samples)
            except VitaError as error:
                failed = error
        if isinstance(event, Done) and failed is not None:
            raise SpeechError(failed.what, where=failed.where, fix=failed.fix, done=event) from failed
        yield event


def with_reasoning(events: Iterable[Event]) -> Iterator[Event]:
    """Print the reasoning to stderr, on lines of its own, and pass all events on; dimmed on a terminal."""
    dim, plain = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    begun = False
    for event in events:
        if isinstance(event, ReasoningDelta):
            sys.stderr.write(f"{dim}{event.text}{plain}")
            sys.stderr.flush()
            begun = True
        elif begun and isinstance(event, (TextDelta, Done)):
            sys.stderr.write("\n")
            sys.stderr.flush()
            begun = False
        yield event


def collect(events: Iterable[Event]) -> tuple[Result, SpeechError | None]:
    """The answer, and why it was not spoken if it was to be."""
    texts: list[Event] = []
    try:
        for event in events:
            if not isinstance(event, SpeechChunk):
                texts.append(event)
    except SpeechError as error:
        return Result.collect([*texts, error.done]), error
    return Result.collect(texts), None


def show_answer(events: Iterable[Event], *, stream: bool, out: TextIO | None = None) -> Done:
    """Print the text and one newline; text that was printed before an error gets one, too.

    Args:
        events: of one answer.
        stream: print piece by piece; else at the end.
        out: where to; default: stdout.

    Raises:
        VitaError: what went wrong with the request. SpeechError: the text is printed, and its speech failed.
    """
    out = out or sys.stdout
    pieces: list[str] = []
    try:
        for event in events:
            if isinstance(event, Done):
                _end_answer(out, pieces, stream=stream)
                return event
            if isinstance(event, TextDelta):
                pieces.append(event.text)
                if stream:
                    out.write(event.text)
                    out.flush()
    except VitaError as error:
        if isinstance(error, SpeechError) or (stream and pieces):
            _end_answer(out, pieces, stream=stream)
        raise
    raise RuntimeError("the event stream ended without Done")


def _end_answer(out: TextIO, pieces: list[str], *, stream: bool) -> None:
    if not stream:
        out.write("".join(pieces))
    out.write("\n")
    out.flush()


def explain(done: Done) -> None:
    """Print notes about the answer to stderr."""
    for note in done.notes:
        sys.stderr.write(f"vita: note: {note}\n")
    if done.state == "noise":
        sys.stderr.write("vita: note: the model took the audio for noise or for speech that was not meant for it.\n")
    if done.finish_reason == "length" and not any("context" in note for note in done.notes):
        sys.stderr.write("vita: note: the answer was cut off; --max-tokens sets the limit.\n")


def as_json(result: Result, model: str) -> dict[str, Any]:
    """The whole result as plain data."""
    timings = dataclasses.asdict(result.timings)
    timings["tokens_per_second"] = result.timings.tokens_per_second
    timings["gigabytes_per_second"] = result.timings.gigabytes_per_second
    timings["images_per_second"] = result.images_per_second
    return {
        "text": result.text,
        "reasoning": result.reasoning,
        "state": result.state,
        "finish_reason": result.finish_reason,
        "model": model,
        "usage": dataclasses.asdict(result.usage),
        "timings": timings,
        "token_ids": list(result.token_ids),
        "logprobs": [dataclasses.asdict(t) for t in result.logprobs],
        "notes": list(result.notes),
    }
