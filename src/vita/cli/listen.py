"""`vita chat --listen`: talk with the model by microphone."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

import numpy as np
from numpy.typing import NDArray

from vita.cli.ask import explain
from vita.cli.speech import speaker
from vita.errors import ResourceError, VitaError
from vita.events import Done, SpeechChunk, Started, TextDelta
from vita.speech.turns import (
    Input,
    Noise,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TurnComplete,
    TurnOptions,
    TurnPaused,
)
from vita.speech.vad import SAMPLE_RATE
from vita.types import Audio, Message, SamplingParams, Video, user

if TYPE_CHECKING:
    from vita.api import Vita
    from vita.cli.chat.conversation import ChatFlags
    from vita.cli.speech import Speak
    from vita.engine.handle import Handle
    from vita.engine.session import Session
    from vita.speech.device import DuplexDevice
    from vita.speech.microphone import Microphone, MicrophoneEvent

# Longer than in a server: there is no network between, and people think while they speak. After 640 ms the model is
# asked whether what was said is a question to it. If it is sure, the turn ends then. Not sooner: a model is as sure of
# the first half of a question. Speech that stops an answer must be longer than what is left of an echo in its first
# tenths of a second.
LISTEN_OPTIONS = TurnOptions(silence_ms=1_000, ask_after_ms=(640,), interrupt_ms=256)
SURE = 0.9  # probability of the response state from which the model is sure
POLL_SECONDS = 0.2  # Ctrl-C is noticed so often on every system


class ListenLoop:
    """The loop: each turn that is heard is submitted, each answer printed and, with a voice, spoken.

    Args:
        session: the conversation.
        microphone: started by `run`.
        params: how tokens are chosen.
        speak: makes a handle whose events include the spoken answer; None: answers are only printed.
        first: images, videos and audio that go with the first turn.
        out: where answers are printed; None: standard output.
    """

    def __init__(
        self, session: Session, microphone: Microphone, params: SamplingParams, *, speak: Speak | None = None,
        first: Message | None = None, out: TextIO | None = None,
    ) -> None:  # fmt: skip
        self._session, self._microphone, self._params, self._speak = session, microphone, params, speak
        self._first = first
        self._out = out
        self._handle: Handle | None = None
        self._answer: threading.Thread | None = None
        self._error: Exception | None = None  # of an answer, and no `VitaError`
        self._probe: Handle | None = None  # asks whether the turn that has paused is complete
        self._paused: NDArray[np.float32] | None = None  # its audio, which the model has encoded

    @property
    def answer(self) -> threading.Thread | None:
        """What prints and plays the newest answer; None: there is none."""
        return self._answer

    def run(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Listen until `stopped` says so, which is asked five times a second.

        Raises:
            ResourceError: the device cannot be used, or has stopped. Whatever else an answer ended with.
        """
        self._microphone.start()
        try:
            while self._error is None and not stopped():
                event = self._microphone.next_event(POLL_SECONDS)
                if event is not None:
                    self.handle(event)
        finally:
            self._stop_probe()
            self._stop_answer()
            self._microphone.close()
        if self._error is not None:
            raise self._error

    def handle(self, event: MicrophoneEvent) -> None:
        """React to what was heard."""
        what = event.heard.event
        if isinstance(what, SpeechStarted) and what.interrupts:
            self._stop_answer()
            if self._speak is not None and event.heard_characters is not None:
                self._session.truncate(event.heard_characters)
        elif isinstance(what, TurnPaused) and event.heard.audio is not None:
            self._ask(event.heard.audio, what)
        elif isinstance(what, SpeechResumed):
            self._stop_probe()
        elif isinstance(what, SpeechStopped) and event.heard.audio is not None:
            paused = self._paused if what.reason == "complete" else None
            self._stop_probe()
            if what.answer:
                self._submit(event.heard.audio if paused is None else paused, what.turn_id)
            elif what.reason == "noise":
                self._print(f"({len(event.heard.audio) / SAMPLE_RATE:.1f} s) (noise)\n")

    def _message(self, samples: NDArray[np.float32]) -> Message:
        """The user's turn of this audio."""
        audio = Audio(samples, SAMPLE_RATE)
        return user(audios=[audio]) if self._first is None else Message("user", (*self._first.parts, audio))

    def _ask(self, samples: NDArray[np.float32], paused: TurnPaused) -> None:
        """Ask the model whether the turn that has paused is a question to it, or noise; if so, the turn ends."""
        self._stop_probe()
        says: dict[str | None, Input] = {
            "spoken": TurnComplete(paused.turn_id, paused.speech_end), "noise": Noise(paused.turn_id),
        }  # fmt: skip
        try:
            probe = self._session.probe(self._message(samples))
        except VitaError:
            return  # the turn ends by its silence, and then its error is shown
        self._probe, self._paused = probe, samples

        def listen() -> None:
            try:
                result = probe.result()
            except VitaError:
                return  # as above
            if result.state in says and math.exp(result.logprobs[0].logprob) >= SURE:
                self._microphone.tell(says[result.state])

        threading.Thread(target=listen, name="vita-probe", daemon=True).start()

    def _stop_probe(self) -> None:
        """What the model says of the pause is of no use any more."""
        if self._probe is not None:
            self._probe.cancel()
        self._probe = self._paused = None

    def _submit(self, samples: NDArray[np.float32], turn_id: int) -> None:
        self._stop_answer()
        self._print(f"({len(samples) / SAMPLE_RATE:.1f} s) ")
        try:
            handle = self._session.submit(self._message(samples), self._params)
            self._handle = handle if self._speak is None else self._speak(handle)
        except VitaError as error:
            self._fail(error)
            return
        self._answer = threading.Thread(
            target=self._give, args=(self._handle, turn_id), name="vita-answer", daemon=True
        )
        self._answer.start()

    def _give(self, handle: Handle, turn_id: int) -> None:
        """Print and play one answer; in a thread, since playing blocks."""
        number = self._microphone.begin_answer()
        try:
            for event in handle:
                if isinstance(event, Started):
                    if event.state == "noise":
                        self._microphone.tell(Noise(turn_id))
                        handle.cancel()
                        self._print("(noise)")
                        break
                    self._first = None  # the history holds the media now
                elif isinstance(event, TextDelta):
                    self._print(event.text)
                elif isinstance(event, Done):
                    explain(event)
                elif isinstance(event, SpeechChunk):
                    self._microphone.play(number, event.samples, event.text_end)
        except VitaError as error:
            self._print("\n")
            self._fail(error)
        except Exception as error:
            self._print("\n")
            self._error = error
        else:
            self._print("\n")
        finally:
            self._microphone.finish_answer(number)

    def _stop_answer(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._answer is not None:
            self._microphone.stop_answer()
            self._answer.join()
        self._handle = self._answer = None

    def _print(self, text: str) -> None:
        out = self._out or sys.stdout
        out.write(text)
        out.flush()

    def _fail(self, error: VitaError) -> None:
        from vita.cli.app import flag_names
        from vita.cli.guard import with_flag

        sys.stderr.write(f"vita: {with_flag(error, flag_names())}\n")


def open_microphone(device: DuplexDevice | None = None, options: TurnOptions = LISTEN_OPTIONS) -> Microphone:
    """The default device with echo cancelling and voice activity, not started.

    Args:
        device: another one.
        options: of the turns.

    Raises:
        ResourceError: there is no device, or a package of the extra `listen` is missing.
    """
    from vita.speech.device import DefaultDevice
    from vita.speech.echo import EchoCanceller
    from vita.speech.microphone import Microphone
    from vita.speech.vad import load_vad

    return Microphone(device or DefaultDevice(), load_vad(), EchoCanceller(), options)


def choose_speaker(model: Vita, flags: ChatFlags) -> Speak | None:
    """What speaks the answers; None, with a note, where no voice is installed and none was asked for.

    Raises:
        RequestError, ResourceError: the voice that was asked for cannot be used.
    """
    try:
        return speaker(model, flags.speech)
    except ResourceError as error:
        if flags.speak or flags.speech.voice is not None:
            raise
        sys.stderr.write(f"vita: note: answers are only printed, since {error.what}; {error.fix}.\n")
        return None


def run_listen(flags: ChatFlags) -> None:
    """Talk until Ctrl-C. The device is opened before the model is loaded: a machine without one says so at once.

    Args:
        flags: of the command line; media go with the first turn.

    Raises:
        VitaError: there is no device, a package is missing, or the model or its voice cannot be loaded.
    """
    from vita.cli.loading import load_model
    from vita.engine.sampler import check_params

    check_params(flags.params)
    microphone = open_microphone()
    model = load_model(flags.model, flags.options, base=flags.base, verbose=flags.verbose)
    model.engine.processor.check_options(flags.media)
    speak = choose_speaker(model, flags)
    videos = [Video(file, flags.fps, flags.max_frames) for file in flags.videos]
    first = user(images=flags.images, videos=videos, audios=flags.audios)
    session = model.session(flags.system, options=flags.media)
    print("Speak; Ctrl-C ends.")
    try:
        ListenLoop(session, microphone, flags.params, speak=speak, first=first if first.parts else None).run()
    except KeyboardInterrupt:
        print()
