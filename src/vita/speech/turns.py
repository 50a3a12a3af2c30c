"""Turns of a spoken conversation: a pure state machine over probabilities of speech.

`advance` takes a state and one input and returns the next state and the events. Nothing else is kept: a state can be
stored, compared, and used again. Positions count samples at 16 kHz from the start of the stream, never the clock's
seconds, so that a recording that is replayed gives the events it gave when it was heard.

    quiet ──speech──▶ starting ──160 ms of speech──▶ speaking ──silence──▶ quiet
                         └─────────silence─────────▶ quiet
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from vita.errors import RequestError
from vita.speech.vad import FRAME, SAMPLE_RATE

Reason = Literal["silence", "complete", "noise", "limit", "commit"]
Phase = Literal["quiet", "starting", "speaking"]
Eagerness = Literal["low", "medium", "high", "auto"]

HYSTERESIS = 0.15  # speech goes on until the probability is so far below the threshold
CERTAIN = 0.9  # a frame of this probability counts in full for a start, less certain ones in proportion
# Silence that ends a start, so that clicks a while apart do not add up to a turn. A gap within a word is shorter.
MAX_START_GAP = 2 * FRAME
MAX_UNSURE_GAP = 8 * FRAME  # the same for frames that are neither speech nor silence
SEMANTIC_SILENCE_MS: dict[str, int] = {"low": 8_000, "medium": 4_000, "auto": 4_000, "high": 2_000}
PAUSE_MS = 256  # silence at the end of a turn that belongs to its audio
SEMANTIC_ASK_MS = (PAUSE_MS, 640, 1_280)


def samples_of(ms: float) -> int:
    """Milliseconds in samples at 16 kHz."""
    return int(ms * SAMPLE_RATE / 1000)


def ms_of(samples: int) -> int:
    """Samples at 16 kHz in milliseconds."""
    return samples * 1000 // SAMPLE_RATE


@dataclass(frozen=True, kw_only=True)
class TurnOptions:
    """When a turn starts and ends.

    Attributes:
        threshold: probability from which a frame is speech, 0 to 1.
        prefix_padding_ms: audio before the first speech that belongs to the turn.
        silence_ms: silence that ends a turn.
        min_speech_ms: speech that starts a turn, if its probability is 0.9 or above, longer otherwise; less is a click
            or a cough.
        interrupt_ms: the same while an answer is played; None: `min_speech_ms`.
        max_turn_ms: a turn ends after so long even if the speech goes on.
        ask_after_ms: silences after which `TurnPaused` asks the caller whether the turn is complete.
        idle_timeout_ms: silence after an answer until `IdleTimeout`; None: never.
        create_response: whether a turn is to be answered.
        interrupt_response: whether speech stops the answer that is played.

    Raises:
        RequestError: a value that no turn can have.
    """

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_ms: int = 500
    min_speech_ms: int = 160
    interrupt_ms: int | None = None
    max_turn_ms: int = 60_000
    ask_after_ms: tuple[int, ...] = ()
    idle_timeout_ms: int | None = None
    create_response: bool = True
    interrupt_response: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise RequestError(f"must lie between 0 and 1, not {self.threshold}", where="threshold")
        for name, low, high in (
            ("prefix_padding_ms", 0, 10_000), ("silence_ms", 32, 60_000), ("min_speech_ms", 32, 10_000),
            ("interrupt_ms", 32, 10_000), ("max_turn_ms", 1_000, 600_000), ("idle_timeout_ms", 1_000, 600_000),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RequestError(f"must lie between {low} and {high}, not {value}", where=name)
        if list(self.ask_after_ms) != sorted(set(self.ask_after_ms)) or min(self.ask_after_ms, default=1) <= 0:
            raise RequestError("must be positive and rise", where="ask_after_ms")

    @classmethod
    def semantic(
        cls, eagerness: Eagerness = "auto", *, create_response: bool = True, interrupt_response: bool = True
    ) -> TurnOptions:
        """For a caller that can tell whether a turn is complete: long silences, shortened by `TurnComplete`.

        Args:
            eagerness: the longest silence: "low" 8 s, "medium" and "auto" 4 s, "high" 2 s.
            create_response, interrupt_response: as in the class.

        Raises:
            RequestError: no such eagerness.
        """
        if eagerness not in SEMANTIC_SILENCE_MS:
            raise RequestError(f"must be low, medium, high or auto, not {eagerness!r:.40}", where="eagerness")
        return cls(
            silence_ms=SEMANTIC_SILENCE_MS[eagerness], ask_after_ms=SEMANTIC_ASK_MS,
            create_response=create_response, interrupt_response=interrupt_response,
        )  # fmt: skip


@dataclass(frozen=True)
class TurnState:
    """What the machine knows. All positions and lengths are in samples at 16 kHz.

    Attributes:
        position: samples that were judged.
        phase: whether somebody speaks.
        turn_id: of the turn that goes on, or of the last one; 0: there was none.
        onset: where the speech of the turn, or of the start, began.
        speech: speech of the start so far; frames below `CERTAIN` count in proportion.
        speech_end: end of the last speech.
        silent: whether the probability has fallen since, and not risen again.
        asked: how many values of `ask_after_ms` the silence has reached.
        floor: audio before it belongs to earlier turns.
        answering: whether an answer is played.
        idle_since: where the silence after an answer began; None: nothing is awaited.
    """

    position: int = 0
    phase: Phase = "quiet"
    turn_id: int = 0
    onset: int = 0
    speech: float = 0.0
    speech_end: int = 0
    silent: bool = False
    asked: int = 0
    floor: int = 0
    answering: bool = False
    idle_since: int | None = None


# Inputs. Those that name a turn are ignored once they are out of date.


@dataclass(frozen=True)
class Frame:
    """The next 32 ms and the probability that they hold speech."""

    probability: float


@dataclass(frozen=True)
class TurnComplete:
    """The caller's model is sure that the turn that paused is complete.

    Attributes:
        turn_id, speech_end: of the `TurnPaused` that asked.
    """

    turn_id: int
    speech_end: int


@dataclass(frozen=True)
class Noise:
    """The caller's model says that a turn is not meant for it: no answer."""

    turn_id: int


@dataclass(frozen=True)
class AnswerStarted:
    """An answer begins to be played."""


@dataclass(frozen=True)
class AnswerEnded:
    """The answer was played to its end, or was stopped by the caller."""


@dataclass(frozen=True)
class Commit:
    """End the turn now, without an answer."""


@dataclass(frozen=True)
class Clear:
    """Forget the turn that goes on, and all audio so far."""


Input: TypeAlias = Frame | TurnComplete | Noise | AnswerStarted | AnswerEnded | Commit | Clear


# Events.


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody speaks.

    Attributes:
        turn_id: counts from 1.
        start: of the turn's audio, padding included.
        onset: of the speech: what was played up to here was heard.
        at: where it was noticed.
        interrupts: whether an answer was played that must stop now.
    """

    turn_id: int
    start: int
    onset: int
    at: int
    interrupts: bool


@dataclass(frozen=True)
class TurnPaused:
    """The speech has paused: the caller may ask its model whether the turn, `start` to `end`, is complete."""

    turn_id: int
    start: int
    speech_end: int
    end: int


@dataclass(frozen=True)
class SpeechResumed:
    """The speech goes on after `TurnPaused`: what was computed for the pause is of no use."""

    turn_id: int
    at: int


@dataclass(frozen=True)
class SpeechStopped:
    """A turn has ended.

    Attributes:
        turn_id: as in `SpeechStarted`.
        start, end: of the turn's audio; `end` is where the end was noticed.
        onset, speech_end: of the speech in it.
        reason: why it ended.
        answer: whether it is to be answered.
    """

    turn_id: int
    start: int
    onset: int
    speech_end: int
    end: int
    reason: Reason
    answer: bool


@dataclass(frozen=True)
class TurnIgnored:
    """A turn that had ended is noise: its answer must not be given."""

    turn_id: int


@dataclass(frozen=True)
class IdleTimeout:
    """Nobody has spoken for `idle_timeout_ms` since the answer; the silence from `start` to `end`."""

    start: int
    end: int


TurnEvent: TypeAlias = SpeechStarted | TurnPaused | SpeechResumed | SpeechStopped | TurnIgnored | IdleTimeout
Step: TypeAlias = tuple[TurnState, tuple[TurnEvent, ...]]


def advance(state: TurnState, options: TurnOptions, given: Input) -> Step:
    """The next state, and the events of one input."""
    match given:
        case Frame(probability):
            return _frame(state, options, probability)
        case TurnComplete(turn_id, speech_end):
            if _pauses(state, turn_id) and state.speech_end == speech_end:
                return _stopped(state, options, "complete")
        case Noise(turn_id):
            return _noise(state, options, turn_id)
        case AnswerStarted():
            return replace(state, answering=True, idle_since=None), ()
        case AnswerEnded():
            # Over speech nothing is awaited; a start that comes to nothing is part of the silence.
            idle_since = None if state.phase == "speaking" else state.position
            return replace(state, answering=False, idle_since=idle_since), ()
        case Commit():
            if state.phase == "speaking":
                return _stopped(state, options, "commit")
            return _quiet(state), ()
        case Clear():
            return _quiet(state), ()
    return state, ()


def silence_below(threshold: float) -> float:
    """Frames of less probability are silence; at least half of a low threshold, under which frames of silence stay."""
    return max(threshold - HYSTERESIS, threshold / 2)


def turn_start(state: TurnState, options: TurnOptions) -> int:
    """Where the audio begins that the turn needs, or that a turn would need whose speech began now."""
    onset = state.position if state.phase == "quiet" else state.onset
    return max(state.floor, onset - samples_of(options.prefix_padding_ms))


def _frame(state: TurnState, options: TurnOptions, probability: float) -> Step:
    begin, state = state.position, replace(state, position=state.position + FRAME)
    speech, silence = probability >= options.threshold, probability < silence_below(options.threshold)
    if state.phase == "quiet":
        if not speech:
            return _idle(state, options)
        state = replace(state, phase="starting", onset=begin, speech=0.0)
    if state.phase == "starting":
        return _starting(state, options, probability)
    return _speaking(state, options, speech, silence)


def _idle(state: TurnState, options: TurnOptions) -> Step:
    since = state.idle_since
    if since is None or options.idle_timeout_ms is None or state.position - since < samples_of(options.idle_timeout_ms):
        return state, ()
    return replace(state, idle_since=None), (IdleTimeout(since, state.position),)


def _starting(state: TurnState, options: TurnOptions, probability: float) -> Step:
    if probability >= options.threshold:
        speech = state.speech + FRAME * min(1.0, probability / CERTAIN)
        state = replace(state, speech=speech, speech_end=state.position)
    else:
        silence = probability < silence_below(options.threshold)
        if state.position - state.speech_end >= (MAX_START_GAP if silence else MAX_UNSURE_GAP):
            return _idle(replace(state, phase="quiet"), options)
    interrupts = state.answering and options.interrupt_response
    needed = options.interrupt_ms if interrupts and options.interrupt_ms is not None else options.min_speech_ms
    if state.speech < samples_of(needed):
        return state, ()
    state = replace(
        state, phase="speaking", turn_id=state.turn_id + 1, silent=False, asked=0, idle_since=None,
        answering=state.answering and not interrupts,
    )  # fmt: skip
    start = turn_start(state, options)
    return state, (SpeechStarted(state.turn_id, start, state.onset, state.position, interrupts),)


def _speaking(state: TurnState, options: TurnOptions, speech: bool, silence: bool) -> Step:
    events: tuple[TurnEvent, ...] = ()
    if speech and state.asked:
        events = (SpeechResumed(state.turn_id, state.position - FRAME),)
    if speech or not (silence or state.silent):
        state = replace(state, speech_end=state.position, silent=False, asked=0)
    else:
        state = replace(state, silent=True)
    if state.silent and state.position - state.speech_end >= samples_of(options.silence_ms):
        state, stopped = _stopped(state, options, "silence")
        return state, (*events, *stopped)
    if state.position - state.onset >= samples_of(options.max_turn_ms):
        state, stopped = _stopped(state, options, "limit")
        return state, (*events, *stopped)
    asks = options.ask_after_ms[state.asked :]
    if asks and state.position - state.speech_end >= samples_of(asks[0]):
        paused = TurnPaused(state.turn_id, turn_start(state, options), state.speech_end, state.position)
        return replace(state, asked=state.asked + 1), (*events, paused)
    return state, events


def _noise(state: TurnState, options: TurnOptions, turn_id: int) -> Step:
    if _pauses(state, turn_id):
        return _stopped(state, options, "noise")
    if turn_id != state.turn_id or state.phase == "speaking":
        return state, ()
    idle_since = state.position if state.phase == "quiet" else None
    return replace(state, answering=False, idle_since=idle_since), (TurnIgnored(turn_id),)


def _pauses(state: TurnState, turn_id: int) -> bool:
    return state.phase == "speaking" and state.turn_id == turn_id and state.asked > 0


def _stopped(state: TurnState, options: TurnOptions, reason: Reason) -> Step:
    answer = options.create_response and reason not in ("noise", "commit")
    event = SpeechStopped(
        state.turn_id, turn_start(state, options), state.onset, state.speech_end, state.position, reason, answer
    )
    return _quiet(state), (event,)


def _quiet(state: TurnState) -> TurnState:
    """No turn goes on, and audio so far belongs to no later one."""
    return replace(state, phase="quiet", floor=state.position, silent=False, asked=0)
