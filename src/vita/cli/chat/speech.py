"""Speech of a chat: the voice, and each answer on its way to the loudspeaker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from vita.cli.speech import checkpoint_voice, speaker

if TYPE_CHECKING:
    from vita.api import Vita
    from vita.cli.speech import Speak
    from vita.engine.handle import Handle
    from vita.events import SpeechChunk
    from vita.speech.player import Player
    from vita.types import SpeechOptions

MAX_NAMED = 4  # languages of a voice that are named; of more the number is


def open_default() -> Player:
    """The system's loudspeaker.

    Raises:
        ResourceError: there is none, or sounddevice is not installed.
    """
    from vita.speech.player import Player

    return Player()


class ChatSpeech:
    """Whether and how the answers of a chat are spoken.

    Args:
        options: the voice, its speed and the language.
        on: whether answers are spoken; `switch` changes it.
        open_player: opens the loudspeaker, for each answer anew.
    """

    def __init__(
        self, options: SpeechOptions, *, on: bool = False, open_player: Callable[[], Player] = open_default
    ) -> None:
        self.options, self.on, self._open_player = options, on, open_player

    def check_player(self) -> None:
        """Refuse a machine that cannot play, before a model is loaded.

        Raises:
            ResourceError: as `open_default`.
        """
        if self.on:
            with self._open_player():
                pass

    def check_voice(self, model: Vita) -> None:
        """Refuse a voice that this model cannot use, before a question is asked.

        Raises:
            RequestError: there is no such voice. ResourceError: it, or every voice, is not installed.
        """
        if self.on:
            speaker(model, self.options)

    def switch(self, name: str | None, model: Vita) -> None:
        """Speak from the next answer on.

        Args:
            name: of the voice; None: the one before, or the best.
            model: whose voice may be meant.

        Raises:
            RequestError, ResourceError: as the checks; nothing is changed then.
        """
        wanted = ChatSpeech(
            self.options if name is None else replace(self.options, voice=name), on=True, open_player=self._open_player
        )
        wanted.check_voice(model)
        wanted.check_player()
        self.options, self.on = wanted.options, True

    def current(self, model: Vita) -> str | None:
        """The name of the voice that speaks; None if answers are not spoken.

        Raises:
            RequestError, ResourceError: as `check_voice`.
        """
        from vita.speech.voice import choose_voice

        return choose_voice(self.options.voice, checkpoint_voice(model, self.options)).name if self.on else None

    @contextlib.contextmanager
    def answer(self, model: Vita) -> Iterator[SpokenAnswer]:
        """The speech of one answer; at the end of the block all of it was played, or it was stopped.

        Raises:
            RequestError, ResourceError: as the checks, before anything is asked.
        """
        if not self.on:
            yield SpokenAnswer()
            return
        speak = speaker(model, self.options)
        with self._open_player() as player:
            yield SpokenAnswer(speak, player)


class SpokenAnswer:
    """One answer on its way to the loudspeaker.

    Args:
        speak: makes the handle of a spoken answer; None: the answer is only printed.
        player: open.
    """

    def __init__(self, speak: Speak | None = None, player: Player | None = None) -> None:
        from vita.speech.playback import SpokenText

        self._speak, self._player, self._text = speak, player, SpokenText()
        self._begun = False  # there was something to hear

    def start(self, handle: Handle) -> Handle:
        """The handle of a request that nobody has read, with the speech among its events."""
        return handle if self._speak is None else self._speak(handle)

    def play(self, chunk: SpeechChunk) -> None:
        """Play a chunk after those before.

        Raises:
            ResourceError: the loudspeaker is gone.
        """
        if self._player is not None:
            self._begun = True
            self._text.add(len(chunk.samples), chunk.text_end)
            self._player.write(chunk.samples)

    def wait(self) -> None:
        """Block until all is played.

        Raises:
            ResourceError: the loudspeaker is gone.
        """
        if self._player is not None:
            self._player.wait()

    def stop(self) -> int | None:
        """Stop the audio.

        Returns:
            Characters of the answer that were heard; None if there was nothing to hear, so that the text was only read.
        """
        if self._player is None:
            return None
        heard = self._text.heard(self._player.stop())
        return heard if self._begun else None


def describe_voices(speech: ChatSpeech, model: Vita) -> str:
    """The voices, one a line, and which of them speaks.

    Raises:
        CheckpointError: the checkpoint's own voice cannot be used.
    """
    from vita.speech.voice import INSTALL, available_voices

    voices = available_voices(model.checkpoint_voice)
    if not voices:
        return f"No voice is installed; {INSTALL}."
    current = speech.current(model)
    width = max(len(voice.name) for voice in voices)
    lines = [
        f"{'*' if voice.name == current else ' '} {voice.name:{width}}  {describe_languages(voice.languages)}"
        for voice in voices
    ]
    state = "Answers are not spoken" if current is None else f"Answers are spoken by {current}"
    return "\n".join([*lines, f"{state}; /voice NAME speaks them, /voice off does not."])


def describe_languages(languages: tuple[str, ...]) -> str:
    """The languages of a voice, or how many they are."""
    return ", ".join(languages) if len(languages) <= MAX_NAMED else f"{len(languages)} languages"
