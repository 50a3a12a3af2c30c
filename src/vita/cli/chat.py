"""`vita chat`: turn by turn in the terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vita.cli.ask import explain
from vita.cli.guard import with_flag
from vita.cli.loading import load_model
from vita.errors import RequestError, VitaError
from vita.events import Done, TextDelta
from vita.types import MediaOptions, SamplingParams, Video, user

if TYPE_CHECKING:
    from vita.api import Vita
    from vita.engine.handle import Handle
    from vita.options import EngineOptions

HELP = """\
/image PATH [question]   add an image to the next (or this) question
/video PATH [question]   add a video
/audio PATH [question]   add audio; alone, it is the question
/system TEXT             replace the system text and start over
/reset                   forget the conversation
/help                    this list
/quit                    leave (so does Ctrl-D)
Ctrl-C stops the answer, not the program."""


@dataclass(frozen=True, kw_only=True)
class ChatFlags:
    """The arguments of one call; media go with the first question."""

    model: str | None
    base: str | None
    options: EngineOptions
    params: SamplingParams
    system: str | None
    images: tuple[str, ...]
    videos: tuple[str, ...]
    audios: tuple[str, ...]
    fps: float
    max_frames: int
    media: MediaOptions
    verbose: bool


@dataclass
class Pending:
    """Media that go with the next question."""

    images: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    audios: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.images or self.videos or self.audios)


class Conversation:
    """State of the loop: the chat, and the media of the next question.

    Args:
        model: a loaded model.
        flags: of the command line.
    """

    def __init__(self, model: Vita, flags: ChatFlags) -> None:
        self.model, self.flags = model, flags
        self.chat = model.chat(system_text=flags.system, options=flags.media)
        self.pending = Pending(list(flags.images), list(flags.videos), list(flags.audios))

    def handle(self, line: str) -> bool:
        """One line of input; False ends the loop."""
        if not line.startswith("/"):
            self.ask(line)
            return True
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if command in ("/quit", "/exit"):
            return False
        if command == "/help":
            print(HELP)
        elif command == "/reset":
            self.chat.reset()
            self.pending = Pending()
            print("The conversation is forgotten.")
        elif command == "/system":
            self.chat.session.close()
            self.chat = self.model.chat(system_text=rest or None, options=self.flags.media)
            print("The system text is set; the conversation starts over.")
        elif command in ("/image", "/video", "/audio"):
            self._attach(command, rest)
        else:
            print(f"There is no command {command}; /help lists them.")
        return True

    def _attach(self, command: str, rest: str) -> None:
        if not rest:
            print(f"{command} needs the path of a file.")
            return
        path, question = split_path(rest)
        if path == "-":
            print("Standard input is the conversation; name a file.")
            return
        pending = self.pending
        {"/image": pending.images, "/video": pending.videos, "/audio": pending.audios}[command].append(path)
        if question or command == "/audio":
            self.ask(question)
        else:
            print("Now the question:")

    def ask(self, question: str) -> None:
        """Answer one turn; Ctrl-C stops it, an error is a sentence, and the conversation goes on."""
        media, self.pending = self.pending, Pending()
        videos = [Video(file, self.flags.fps, self.flags.max_frames) for file in media.videos]
        message = user(question or None, images=media.images, videos=videos, audios=media.audios)
        if not message.parts:
            return
        turns = len(self.chat.turns)
        handle: Handle | None = None
        try:
            handle = self.chat.session.submit(message, self.flags.params)
            try:
                done = print_answer(handle)
            except KeyboardInterrupt:
                handle.cancel()
                done = print_answer(handle)  # to the end, so that what is printed is what the history holds
        except KeyboardInterrupt:  # the second one, or before the request was submitted
            self._note_stop(media, kept=handle is not None)
            return
        except VitaError as error:
            from vita.cli.app import flag_names

            sys.stderr.write(f"vita: {with_flag(error, flag_names())}\n")
            return
        if done.finish_reason == "cancelled":
            # If the media were not read yet, the turn is not in the history.
            self._note_stop(media, kept=len(self.chat.turns) > turns)
        else:
            print()
            explain(done)

    def _note_stop(self, media: Pending, *, kept: bool) -> None:
        """Say that an answer was stopped; media of a turn that the history does not hold go with the next question."""
        if kept or not media:
            print("\n(stopped)")
        else:
            self.pending = media
            print("\n(stopped; the media go with the next question)")


def print_answer(handle: Handle) -> Done:
    """Print the text piece by piece, without the last newline."""
    for event in handle:
        if isinstance(event, TextDelta):
            sys.stdout.write(event.text)
            sys.stdout.flush()
        elif isinstance(event, Done):
            return event
    raise RuntimeError("the event stream ended without Done")


def run_chat(flags: ChatFlags) -> None:
    """Load the model and read lines until the end of input.

    Raises:
        VitaError: the model cannot be loaded, or an option has no such value.
        KeyboardInterrupt: Ctrl-C twice at the prompt; once where the input is no terminal.
    """
    from vita.engine.sampler import check_params

    check_params(flags.params)
    if "-" in (*flags.images, *flags.videos, *flags.audios):
        raise RequestError("standard input is the conversation", where="-", fix="name a file")
    model = load_model(flags.model, flags.options, base=flags.base, verbose=flags.verbose)
    model.engine.processor.check_options(flags.media)
    conversation = Conversation(model, flags)
    on_terminal = sys.stdin.isatty()
    if on_terminal:
        _enable_line_editing()
        print("Type a question; /help lists the commands, Ctrl-D ends.")
    warned = False
    while True:
        try:
            line = input("> " if on_terminal else "").strip()
        except EOFError:
            if on_terminal:
                print()
            break
        except KeyboardInterrupt:
            if warned or not on_terminal:
                raise
            warned = True
            print("\n(Ctrl-C once more, or Ctrl-D, to leave)")
            continue
        warned = False
        if line and not conversation.handle(line):
            break


def split_path(text: str) -> tuple[str, str]:
    """A path, quoted if it holds spaces, and the question after it."""
    if text[0] in "\"'" and text.find(text[0], 1) > 0:
        end = text.find(text[0], 1)
        return text[1:end], text[end + 1 :].strip()
    path, _, question = text.partition(" ")
    return path, question.strip()


def _enable_line_editing() -> None:
    """Arrow keys and history, where Python was built with readline."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
