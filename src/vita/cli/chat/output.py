"""Print answers to stdout, and everything else that a chat says to stderr."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from vita.events import Done, SpeechChunk, TextDelta

if TYPE_CHECKING:
    from collections.abc import Callable

    from vita.engine.handle import Handle


MAX_COLUMNS = 100  # longer lines are hard to read


def terminal_columns() -> int:
    """Width of the terminal; 80 without one. The variable COLUMNS sets it."""
    return shutil.get_terminal_size().columns


def note(text: str) -> None:
    """Print a line that is no answer."""
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_answer(handle: Handle, pieces: list[str], play: Callable[[SpeechChunk], None] | None = None) -> Done:
    """Print the text piece by piece, without the last newline, and play its speech.

    Args:
        handle: of the request.
        pieces: the text is added to it.
        play: called with each chunk of the speech; must not block.
    """
    for event in handle:
        if isinstance(event, TextDelta):
            pieces.append(event.text)
            sys.stdout.write(event.text)
            sys.stdout.flush()
        elif isinstance(event, SpeechChunk) and play is not None:
            play(event)
        elif isinstance(event, Done):
            return event
    raise RuntimeError("the event stream ended without Done")
