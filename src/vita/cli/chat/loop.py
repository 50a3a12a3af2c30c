"""The loop of a chat: read a line of input, do what it says, until the end."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from vita.cli.chat.attachments import MediaReader, count_kinds
from vita.cli.chat.conversation import ChatFlags, Conversation
from vita.cli.chat.output import MAX_COLUMNS, note, terminal_columns
from vita.cli.chat.reader import open_reader
from vita.cli.chat.speech import ChatSpeech
from vita.cli.loading import load_model

if TYPE_CHECKING:
    from vita.cli.chat.reader import Reader

WELCOME = "Type a question, or drop a file here. /help lists the commands, Tab completes, Ctrl-D ends."


def run_chat(flags: ChatFlags) -> int:
    """Load the model and read lines until the end of input.

    Returns:
        Exit code: 0; 2 if stdin is no terminal and a line of it could not be done.

    Raises:
        VitaError: the model cannot be loaded, an option has no such value, a file cannot be used, or answers cannot be
            spoken.
        KeyboardInterrupt: Ctrl-C twice at the prompt; once where the input is no terminal.
    """
    from vita.engine.sampler import check_params

    check_params(flags.params)
    media = MediaReader(flags.fps, flags.max_frames, flags.media)
    for kind, path in flags.files:
        media.check(kind, path)
    speech = ChatSpeech(flags.speech, on=flags.speak)
    speech.check_player()
    model = load_model(flags.model, flags.options, base=flags.base, verbose=flags.verbose)
    speech.check_voice(model)
    conversation = Conversation(model, flags, speech)
    del model  # /model frees it
    conversation.model.engine.processor.check_options(flags.media)
    reader = open_reader()
    if reader.on_terminal:
        print(textwrap.fill(WELCOME, max(1, min(terminal_columns(), MAX_COLUMNS))))
    for kind, path in flags.files:
        conversation.attach(kind, path)
    read_lines(reader, conversation)
    if reader.on_terminal:
        return 0
    if conversation.pending:
        note(f"vita: {count_kinds(conversation.pending)}: attached, but no question followed; add one.")
        return 2
    return 2 if conversation.failures else 0


def read_lines(reader: Reader, conversation: Conversation) -> None:
    """Do what each line says, until one ends the chat or the input ends.

    Raises:
        VitaError: no model is loaded any more. KeyboardInterrupt: see `run_chat`.
    """
    warned = False
    while True:
        attached = count_kinds(conversation.pending)
        try:
            line = reader.read(f"[{attached}] > " if attached else "> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            if warned or not reader.on_terminal:
                raise
            warned = True
            note("(Ctrl-C once more, or Ctrl-D, to leave)")
            continue
        warned = False
        if line is not None and not conversation.handle(line):
            return
