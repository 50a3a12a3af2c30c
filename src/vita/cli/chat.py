"""`vita chat`: turn by turn in the terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vita.cli.ask import explain
from vita.cli.guard import with_flag
from vita.errors import VitaError
from vita.events import Done, TextDelta
from vita.types import SamplingParams, user

if TYPE_CHECKING:
    from vita.api import Vita

HELP = """\
/image PATH [question]   add an image to the next (or this) question
/video PATH [question]   add a video
/audio PATH [question]   add audio; alone, it is the question
/system TEXT             replace the system text and start over
/reset                   forget the conversation
/help                    this list
/quit                    leave (so does Ctrl-D)
Ctrl-C stops the answer, not the program."""


@dataclass
class Waiting:
    """Media to go with the next question."""

    images: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    audios: list[str] = field(default_factory=list)

    def clear(self) -> None:
        self.images.clear()
        self.videos.clear()
        self.audios.clear()


class Conversation:
    """State of the loop: the chat, and the media of the next question."""

    def __init__(self, model: Vita, params: SamplingParams, system: str | None) -> None:
        self.model = model
        self.params = params
        self.chat = model.chat(system_text=system)
        self.waiting = Waiting()

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
            self.waiting.clear()
            print("The conversation is forgotten.")
        elif command == "/system":
            self.chat = self.model.chat(system_text=rest or None)
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
        {"/image": self.waiting.images, "/video": self.waiting.videos, "/audio": self.waiting.audios}[command].append(
            path
        )
        if question or command == "/audio":
            self.ask(question)
        else:
            print("Now the question:")

    def ask(self, question: str) -> None:
        """Answer one turn; Ctrl-C stops it, an error is a sentence, and the conversation goes on."""
        w = self.waiting
        message = user(question or None, images=w.images, videos=w.videos, audios=w.audios)
        self.waiting = Waiting()
        if not message.parts:
            return
        try:
            for event in self.chat.send(message, self.params):
                if isinstance(event, TextDelta):
                    sys.stdout.write(event.text)
                    sys.stdout.flush()
                elif isinstance(event, Done):
                    print()
                    explain(event)
        except KeyboardInterrupt:
            print("\n(stopped; this turn is not kept)")
        except VitaError as error:
            from vita.cli.app import flag_names

            sys.stderr.write(f"vita: {with_flag(error, flag_names())}\n")


def run_chat(
    model: Vita, params: SamplingParams, system: str | None, images: tuple[str, ...], videos: tuple[str, ...]
) -> None:
    """Read lines until the end of input."""
    talk = Conversation(model, params, system)
    talk.waiting.images += images
    talk.waiting.videos += videos
    talking = sys.stdin.isatty()
    if talking:
        _enable_line_editing()
        print("Type a question; /help lists the commands, Ctrl-D ends.")
    hinted = False
    while True:
        try:
            line = input("> " if talking else "").strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            if hinted:
                break
            hinted = True
            print("\n(Ctrl-C once more, or Ctrl-D, to leave)")
            continue
        hinted = False
        if line and not talk.handle(line):
            break


def split_path(text: str) -> tuple[str, str]:
    """A path, quoted if it holds spaces, and the question behind it."""
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
