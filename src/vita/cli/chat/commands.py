"""The commands of a chat: their names, their help, and what they do."""

from __future__ import annotations

import difflib
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from vita.cli.chat.output import MAX_COLUMNS, note, terminal_columns
from vita.cli.chat.paths import first_word, split_path
from vita.cli.chat.speech import describe_voices
from vita.cli.chat.transcript import save_transcript
from vita.errors import RequestError
from vita.media.suffixes import Kind

if TYPE_CHECKING:
    from vita.api import Vita
    from vita.cli.chat.conversation import Conversation

DEFAULT_MODEL = "default"  # the name of the embedded model
DEFAULT_TEXT = "default"  # the name of the built-in system text
SPEAK, SILENT = "on", "off"  # instead of the name of a voice
GREEDY, REGENERATE_TEMPERATURE = 1e-6, 0.7  # a greedy answer would be the same again


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        arguments: as the help shows them.
        help: one line.
        run: called with the conversation and the text after the name; False ends the chat.
        completes: what Tab completes after the name: files of this kind, any file, or nothing.
    """

    arguments: str
    help: str
    run: Callable[[Conversation, str], bool]
    completes: Kind | str = ""


def run_attach(kind: Kind, chat: Conversation, rest: str) -> bool:
    """Attach a file; ask at once if a question follows, or if the file is audio, which is a question."""
    if not rest:
        raise RequestError("needs the path of a file", where=f"/{kind}")
    path, question = split_path(rest)
    chat.attach(kind, path)
    if question or kind == "audio":
        chat.ask(question)
    return True


def run_detach(chat: Conversation, rest: str) -> bool:
    """Remove the media that no question has used yet."""
    note("The attached media are removed." if chat.pending else "Nothing is attached.")
    chat.pending = []
    return True


def run_model(chat: Conversation, rest: str) -> bool:
    """Show the model, or load another one."""
    if rest:
        word, more = first_word(rest)
        chat.switch_model(rest if more else word)
        note("The model is loaded; the conversation starts over.")
    print(describe_model(chat.name or DEFAULT_MODEL, chat.model))
    return True


def run_system(chat: Conversation, rest: str) -> bool:
    """Show the system text, or replace it and start over."""
    if not rest:
        print("The built-in system text is used." if chat.system is None else chat.system)
        return True
    chat.system = None if rest == DEFAULT_TEXT else rest
    chat.start_over()
    note("The system text is set; the conversation starts over.")
    return True


def run_regenerate(chat: Conversation, rest: str) -> bool:
    """Answer the newest question again, sampled."""
    temperature = chat.flags.params.temperature
    if rest:
        try:
            temperature = float(rest)
        except ValueError:
            raise RequestError(f"{rest!r} is not a temperature", where="/regenerate", fix="give a number") from None
    elif temperature < GREEDY:
        temperature = REGENERATE_TEMPERATURE
    chat.regenerate(temperature)
    return True


def run_save(chat: Conversation, rest: str) -> bool:
    """Write the conversation to a file."""
    word, more = first_word(rest)
    name = (rest if more else word) or time.strftime("vita-chat-%Y%m%d-%H%M%S.md")
    save_transcript(name, chat.exchanges, chat.name or DEFAULT_MODEL, chat.system)
    note(f"The conversation is saved in {name}.")
    return True


def run_voice(chat: Conversation, rest: str) -> bool:
    """List the voices, speak with one, or stop speaking."""
    if not rest:
        print(describe_voices(chat.speech, chat.model))
    elif rest.lower() == SILENT:
        chat.speech.on = False
        note("Answers are not spoken.")
    else:
        chat.speech.switch(None if rest.lower() == SPEAK else rest, chat.model)
        note(f"Answers are spoken by {chat.speech.current(chat.model)}.")
    return True


def run_reset(chat: Conversation, rest: str) -> bool:
    """Forget the conversation and the attached media."""
    chat.pending = []
    chat.start_over()
    note("The conversation is forgotten.")
    return True


def run_help(chat: Conversation, rest: str) -> bool:
    """List the commands."""
    print(help_text(terminal_columns()))
    return True


def run_quit(chat: Conversation, rest: str) -> bool:
    """End the chat."""
    return False


COMMANDS: dict[str, Command] = {
    "image": Command("FILE [QUESTION]", "attach an image to the next question, or to this one",
                     partial(run_attach, "image"), "image"),
    "video": Command("FILE [QUESTION]", "attach a video", partial(run_attach, "video"), "video"),
    "audio": Command("FILE [QUESTION]", "attach audio; alone, it is the question",
                     partial(run_attach, "audio"), "audio"),
    "detach": Command("", "remove what is attached", run_detach),
    "regenerate": Command("[TEMPERATURE]", f"another answer to the last question; {REGENERATE_TEMPERATURE} if greedy",
                          run_regenerate),
    "save": Command("[FILE]", "write the conversation to a new file, .md or .json", run_save, "file"),
    "system": Command("[TEXT]", f"show or replace the system text and start over; {DEFAULT_TEXT}: the built-in one",
                      run_system),
    "model": Command("[MODEL]", f"show the model, or load another and start over; {DEFAULT_MODEL}: the embedded one",
                     run_model, "file"),
    "voice": Command("[NAME]", f"list the voices, or speak with one; {SPEAK}: the last or best, {SILENT}: none",
                     run_voice),
    "reset": Command("", "forget the conversation", run_reset),
    "help": Command("", "this list", run_help),
    "quit": Command("", "leave (so does Ctrl-D)", run_quit),
    "exit": Command("", "the same", run_quit),
}  # fmt: skip
HIDDEN = ("exit",)
KEYS = (
    "A file that is dropped into the terminal is attached; media go with the next question. Audio alone is the "
    "question: press Enter. Tab completes commands and paths. Alt-Enter, or \\ at the end of a line, starts a new "
    "line. The up arrow brings back earlier input, which is kept between chats (VITA_HISTORY=off: not). Ctrl-C stops "
    "the answer and its speech, not the program."
)
MIN_COLUMNS = 20
MIN_HELP_COLUMNS = 30  # beside the commands; in less room, the help is written below them


def help_text(columns: int) -> str:
    """The commands and the keys, in lines of up to `columns` characters."""
    columns = max(MIN_COLUMNS, min(columns, MAX_COLUMNS))
    shown = {f"/{name} {command.arguments}": command.help for name, command in COMMANDS.items() if name not in HIDDEN}
    width = max(map(len, shown)) + 2
    is_beside = columns - width >= MIN_HELP_COLUMNS
    indent = " " * (width if is_beside else 4)
    lines: list[str] = []
    for usage, text in shown.items():
        wrapped = textwrap.wrap(text, columns, initial_indent=indent, subsequent_indent=indent)
        lines += [usage + wrapped[0][len(usage) :], *wrapped[1:]] if is_beside else [usage.rstrip(), *wrapped]
    return "\n".join([*lines, "", *textwrap.wrap(KEYS, columns)])


def suggest(name: str) -> str:
    """What to type instead of a command that does not exist."""
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"did you mean /{close[0]}? /help lists the commands" if close else "/help lists the commands"


def describe_model(name: str, model: Vita) -> str:
    """One line: the name, its size, format, device and context."""
    loaded = model.engine.model
    count = sum(loaded.parameters.values())
    size = f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
    dtype = str(loaded.dtype).removeprefix("torch.")
    quantized = f" quantised to {loaded.quantize}" if loaded.quantize else ""
    return (
        f"{name}: {size} parameters, {dtype}{quantized} on {loaded.device}, context of {loaded.config.context} tokens"
    )
