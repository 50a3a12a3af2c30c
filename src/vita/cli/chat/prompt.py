"""Line editor of a chat on a terminal: completion, history, input of several lines."""

from __future__ import annotations

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, get_common_complete_suffix
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from vita.cli.chat.completion import ChatCompleter
from vita.cli.chat.history import open_history
from vita.cli.chat.reader import CONTINUED, INDENT

STYLE = "bold ansicyan"  # of the prompt


class PromptReader:
    """See `Reader`. Enter ends the input; Alt-Enter, or Enter after a backslash, starts a new line."""

    on_terminal = True

    def __init__(self) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=open_history(),
            completer=ChatCompleter(),
            complete_while_typing=False,
            multiline=True,
            prompt_continuation=INDENT,
            key_bindings=make_bindings(),
            enable_suspend=True,
        )

    def read(self, prompt: str) -> str | None:
        """See `Reader`."""
        try:
            return self._session.prompt(FormattedText([(STYLE, prompt)]))
        except KeyboardInterrupt:
            if self._session.default_buffer.text:
                return None
            raise


def make_bindings() -> KeyBindings:
    """The keys that differ from prompt_toolkit's own."""
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        """End the input, or take a completion, or continue after a backslash."""
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None  # what is chosen in the menu is in the text already
        elif buffer.document.text_before_cursor.endswith(CONTINUED):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("tab")
    def _(event: KeyPressEvent) -> None:
        """Complete at once: prompt_toolkit's own key completes later, after an Enter that follows quickly."""
        buffer = event.current_buffer
        if buffer.complete_state is not None:
            buffer.complete_next()
            return
        found = list(buffer.completer.get_completions(buffer.document, CompleteEvent(completion_requested=True)))
        if len(found) == 1:
            buffer.apply_completion(found[0])
            return
        buffer.insert_text(get_common_complete_suffix(buffer.document, found))
        buffer.start_completion()  # shows the menu

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        """Start a new line."""
        event.current_buffer.newline(copy_margin=False)

    return bindings
