"""State of a chat: the session, the media of the next question, and what was said."""

from __future__ import annotations

import gc
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vita.cli.ask import explain
from vita.cli.chat.attachments import Attachment, MediaReader, build_turn
from vita.cli.chat.commands import COMMANDS, DEFAULT_MODEL, suggest
from vita.cli.chat.output import note, print_answer
from vita.cli.chat.paths import find_dropped, is_file
from vita.cli.chat.speech import ChatSpeech
from vita.cli.chat.transcript import Exchange
from vita.cli.guard import with_flag
from vita.cli.loading import load_model
from vita.errors import RequestError, VitaError
from vita.events import Done
from vita.media.suffixes import Kind
from vita.types import MediaOptions, SamplingParams, SpeechOptions

if TYPE_CHECKING:
    from vita.api import Vita
    from vita.engine.handle import Handle
    from vita.engine.session import Session
    from vita.options import EngineOptions
    from vita.prompt.turn_reader import PreparedTurn

COMMAND = re.compile(r"/([A-Za-z]*)(?:\s+(.*))?$", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ChatFlags:
    """The arguments of one call; media go with the first question, `speech` is how answers are spoken if `speak`."""

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
    speak: bool = False
    speech: SpeechOptions = field(default_factory=SpeechOptions)

    @property
    def files(self) -> list[tuple[Kind, str]]:
        """The media, each with its kind."""
        kinds: dict[Kind, tuple[str, ...]] = {"image": self.images, "video": self.videos, "audio": self.audios}
        return [(kind, path) for kind, paths in kinds.items() for path in paths]


class Conversation:
    """A chat with one model at a time.

    Answers are printed to stdout, everything else that a line of input leads to is a note on stderr.

    Args:
        model: loaded. Nothing else may hold it: /model frees it before the next one is loaded.
        flags: of the command line.
        speech: of the answers; None: by the flags, on the system's loudspeaker.

    Attributes:
        flags: as given.
        system: the system text; None: the built-in one.
        name: of the model; None: the embedded one.
        session: holds the turns.
        pending: media of the next question.
        exchanges: questions and answers, oldest first.
        failures: lines that could not be done.
        speech: whether and how answers are spoken.
    """

    def __init__(self, model: Vita, flags: ChatFlags, speech: ChatSpeech | None = None) -> None:
        self.flags, self.system, self.name, self._base = flags, flags.system, flags.model, flags.base
        self.speech = ChatSpeech(flags.speech, on=flags.speak) if speech is None else speech
        self.media = MediaReader(flags.fps, flags.max_frames, flags.media)
        self.pending: list[Attachment] = []
        self.exchanges: list[Exchange] = []
        self.failures = 0
        self._model: Vita | None = model
        self.session: Session = model.session(self.system, options=flags.media)

    @property
    def model(self) -> Vita:
        """The model that answers."""
        if self._model is None:
            raise RuntimeError("no model is loaded")
        return self._model

    def handle(self, line: str) -> bool:
        """Do what one line of input says; False ends the chat. An error is one sentence on stderr.

        Raises:
            VitaError: the model that was loaded before a failed /model cannot be loaded again. KeyboardInterrupt:
            loading it again was interrupted.
        """
        line = line.encode(errors="replace").decode().strip()
        try:
            return self._dispatch(line)
        except KeyboardInterrupt:
            if self._model is None:  # a second Ctrl-C, while the model before was loaded again
                raise
            note("\n(stopped)")
        except VitaError as error:
            if self._model is None:
                raise
            self.report(error)
        return True

    def _dispatch(self, line: str) -> bool:
        command = COMMAND.match(line)
        if command is not None and not is_file(line):
            name, rest = command[1].lower(), (command[2] or "").strip()
            if name not in COMMANDS:
                raise RequestError(f"there is no command /{name}", fix=suggest(name))
            return COMMANDS[name].run(self, rest)
        dropped = find_dropped(line)
        for kind, path in dropped.files:
            self.attach(self.media.kind_of_file(kind, path), path)
        if dropped.text:
            self.ask(dropped.text)
        elif not dropped.files and any(item.kind == "audio" for item in self.pending):
            self.ask("")  # the audio is the question
        return True

    def attach(self, kind: Kind, path: str) -> None:
        """Decode a file for the next question and say what it is.

        Raises:
            VitaError: as `MediaReader.read`.
        """
        item = self.media.read(kind, path, self.session)
        self.pending.append(item)
        note(item.describe())
        for sentence in item.notes:
            note(f"vita: note: {sentence}")

    def ask(self, question: str) -> None:
        """Answer a question with the media that are attached; Ctrl-C stops the answer and its speech.

        Media of a turn that the history does not hold in the end go with the next question.

        Raises:
            VitaError: what went wrong with the request.
        """
        attachments, self.pending = self.pending, []
        turn = build_turn(attachments, question)
        asked = Exchange(question, tuple((item.kind, item.path) for item in attachments))
        try:
            done = self._answer(turn, asked, self.flags.params)
        except BaseException:
            if not self._holds(turn):
                self.pending = attachments + self.pending
            raise
        if done is not None and not self._holds(turn):
            # Audio that was taken for noise is not asked about again.
            kept = [item for item in attachments if done.state != "noise" or item.kind != "audio"]
            self.pending = kept + self.pending

    def _answer(self, turn: PreparedTurn, asked: Exchange, params: SamplingParams) -> Done | None:
        """Print the answer to a turn, speak it and note it; None if a second Ctrl-C came before the end was known.

        The history holds what was printed, or of an answer that was stopped while it was spoken what was heard.

        Raises:
            VitaError: the request failed and left no trace, or its speech did: then the answer so far is kept.
        """
        pieces: list[str] = []
        done: Done | None = None
        heard: int | None = None
        stopped = False
        with self.speech.answer(self.model) as spoken:
            handle = spoken.start(self.session.submit(turn, params))
            try:
                try:
                    done = print_answer(handle, pieces, spoken.play)
                    spoken.wait()
                except KeyboardInterrupt:
                    stopped = True
                    heard = spoken.stop()
                    handle.cancel()
                    if heard is not None:
                        self.session.truncate(heard)
                    if done is None:
                        done = print_answer(handle, pieces)  # to the end, so that the history holds what is printed
            except KeyboardInterrupt:
                handle.cancel()
            except VitaError:
                _cancel_and_wait(handle)
                if self._holds(turn):  # the speech failed, not the request
                    print()
                    self.exchanges.append(replace(asked, answer="".join(pieces)))
                raise
        print()
        text = "".join(pieces)
        if done is None or self._holds(turn):
            self.exchanges.append(replace(asked, answer=text[:heard]))
        if stopped or done is None or done.finish_reason == "cancelled":
            cut = heard is not None and heard < len(text)
            note("(stopped; the conversation goes on from what was heard)" if cut else "(stopped)")
        else:
            explain(done)
        return done

    def _holds(self, turn: PreparedTurn) -> bool:
        return any(kept is turn for kept in self.session.turns)

    def regenerate(self, temperature: float) -> None:
        """Answer the newest question again; the answer before is kept if this one fails.

        Args:
            temperature: of sampling.

        Raises:
            RequestError: nothing was asked, or no such temperature. VitaError: what went wrong with the request.
        """
        from vita.engine.sampler import check_params

        seed = self.flags.params.seed
        count = sum(exchange.tries for exchange in self.exchanges)
        params = replace(
            self.flags.params, temperature=temperature, seed=None if seed is None else (seed + count) % 2**63
        )
        check_params(params)
        removed = self.session.undo()
        if not removed:
            raise RequestError("there is no question yet", where="/regenerate", fix="ask one")
        before = self.exchanges.pop()
        try:
            self._answer(removed[0], replace(before, tries=before.tries + 1), params)
        finally:
            if not self._holds(removed[0]):
                self.exchanges.append(before)
                for turn in removed:
                    self.session.add(turn)

    def start_over(self) -> None:
        """Begin a new session with the same system text; media stay attached."""
        self.session.close()
        self.session = self.model.session(self.system, options=self.flags.media)
        self.exchanges = []

    def switch_model(self, name: str) -> None:
        """Load another model in place of this one and start over.

        Args:
            name: a folder, a hub id, or "default".

        Raises:
            VitaError: it cannot be loaded; the model before is loaded again.
        """
        from vita.checkpoint.open import open_checkpoint

        wanted = None if name == DEFAULT_MODEL else name
        open_checkpoint(wanted, offline=self.flags.options.offline)  # refused before the loaded model is freed
        before = self.name, self._base
        self.session.close()
        self.model.close()
        self._model = None
        del self.session
        gc.unfreeze()  # loading froze what was alive then, the old model included
        gc.collect()
        try:
            self._load(wanted, None)
        except (VitaError, KeyboardInterrupt):
            self._load(*before)
            raise

    def _load(self, name: str | None, base: str | None) -> None:
        model = load_model(name, self.flags.options, base=base, verbose=self.flags.verbose)
        model.engine.processor.check_options(self.flags.media)
        self._model, self.name, self._base = model, name, base
        self.session = model.session(self.system, options=self.flags.media)
        self.exchanges = []
        attached, self.pending = self.pending, []
        for item in attached:  # tiles are cut as the model wants them
            try:
                self.pending.append(self.media.read(item.kind, item.path, self.session))
            except VitaError as error:
                self.report(error)

    def report(self, error: VitaError) -> None:
        """Print an error and count it."""
        from vita.cli.app import flag_names

        self.failures += 1
        note(f"vita: {with_flag(error, flag_names())}")


def _cancel_and_wait(handle: Handle) -> None:
    """Cancel a request and wait until its session's history is final."""
    handle.cancel()
    while handle.request is not None and not handle.request.ended:
        time.sleep(0.01)
