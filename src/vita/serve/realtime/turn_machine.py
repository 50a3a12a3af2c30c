"""Turn machine: when responses start, are announced, stop and end. One table, no I/O.

`step` takes a state and an input and returns the next state and the actions to carry out, in order. Inputs are what the
user does (speech), what the client asks for, and what the generator of the response reports.

    reply:  none ──turn ended──▶ considering ──meant──▶ thinking ──first delta──▶ speaking ──end──▶ none
              │                      └──noise──▶ none       ▲
              └──────────────response.create────────────────┘

An automatic response is `considering` until its first token says that the turn was meant for the model; only then is it
announced. Speech that may interrupt ends any reply at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal, TypeAlias

Reply: TypeAlias = Literal["none", "considering", "thinking", "speaking"]
REPLIES: tuple[Reply, ...] = ("none", "considering", "thinking", "speaking")


class Input(Enum):
    """What happens."""

    SPEECH_INTERRUPTS = "the user speaks, and the settings let speech interrupt"
    SPEECH_OVERLAPS = "the user speaks, and the settings do not"
    TURN_ENDED = "the user's turn has ended and is to be answered"
    TURN_DROPPED = "the user's turn has ended, or was cleared, without an answer"
    CREATE = "the client asks for a response"
    CANCEL = "the client cancels"
    MEANT = "generator: the first token; the turn was meant for the model"
    NOISE = "generator: the first token; the turn was not meant for the model"
    DELTA = "generator: text or audio"
    COMPLETED = "generator: the end"
    INCOMPLETE = "generator: the end, at the most tokens"
    FAILED = "generator: an error"
    CLOSED = "the client is gone"


GENERATOR_INPUTS = frozenset(
    (Input.MEANT, Input.NOISE, Input.DELTA, Input.COMPLETED, Input.INCOMPLETE, Input.FAILED)
)  # fmt: skip


class Action(Enum):
    """What is to be done."""

    START = "start the generator of a response, with a new number"
    STOP = "cancel the generator"
    ANNOUNCE = "send response.created"
    OPEN = "send that the response's item begins"
    PASS = "send the delta"
    COMPLETE = "send the closing events, status completed"
    INCOMPLETE = "send the closing events, status incomplete"
    FAIL = "send the closing events, status failed"
    INTERRUPT = "send the closing events, status cancelled, reason turn_detected"
    CANCEL = "send the closing events, status cancelled, reason client_cancelled"
    TURN_MEANT = "the transcripts of turns that wait for it may be sent"
    TURN_NOISE = "the transcripts of turns that wait for it are empty"
    REFUSE_ACTIVE = "send the error conversation_already_has_active_response"
    REFUSE_NOT_ACTIVE = "send the error response_cancel_not_active"


ENDS = frozenset((Action.COMPLETE, Action.INCOMPLETE, Action.FAIL, Action.INTERRUPT, Action.CANCEL))


@dataclass(frozen=True)
class State:
    """What the machine knows.

    Attributes:
        hearing: the user speaks.
        reply: the response's.
        owed: a turn that is to be answered waits for the end of the reply, or of the speech.
        number: of the newest response; inputs of older generators are ignored.
        closed: the client is gone.
    """

    hearing: bool = False
    reply: Reply = "none"
    owed: bool = False
    number: int = 0
    closed: bool = False

    @property
    def is_active(self) -> bool:
        """Whether a response was announced and has not ended."""
        return self.reply in ("thinking", "speaking")

    @property
    def phase(self) -> str:
        """One word: idle, hearing, overlapping, or the reply's."""
        if self.closed:
            return "closed"
        if self.hearing:
            return "hearing" if self.reply == "none" else "overlapping"
        return "idle" if self.reply == "none" else self.reply


Row: TypeAlias = tuple[Reply, tuple[Action, ...]]
I, A = Input, Action  # noqa: E741  # for the table

# By reply and input: the next reply and the actions. What is not here changes nothing.
TABLE: dict[tuple[Reply, Input], Row] = {
    ("none", I.TURN_ENDED): ("considering", (A.START,)),
    ("none", I.CREATE): ("thinking", (A.TURN_MEANT, A.START, A.ANNOUNCE)),
    ("none", I.CANCEL): ("none", (A.TURN_MEANT, A.REFUSE_NOT_ACTIVE)),

    # The user goes on: one answer to both turns.
    ("considering", I.SPEECH_INTERRUPTS): ("none", (A.TURN_MEANT, A.STOP)),
    ("considering", I.TURN_ENDED): ("considering", (A.STOP, A.START)),
    ("considering", I.CREATE): ("thinking", (A.TURN_MEANT, A.STOP, A.START, A.ANNOUNCE)),
    ("considering", I.CANCEL): ("none", (A.TURN_MEANT, A.STOP, A.REFUSE_NOT_ACTIVE)),
    ("considering", I.MEANT): ("thinking", (A.TURN_MEANT, A.ANNOUNCE)),
    ("considering", I.NOISE): ("none", (A.TURN_NOISE, A.STOP)),
    ("considering", I.COMPLETED): ("none", (A.TURN_MEANT, A.ANNOUNCE, A.COMPLETE)),
    ("considering", I.INCOMPLETE): ("none", (A.TURN_MEANT, A.ANNOUNCE, A.INCOMPLETE)),
    ("considering", I.FAILED): ("none", (A.TURN_MEANT, A.ANNOUNCE, A.FAIL)),
    ("considering", I.CLOSED): ("none", (A.TURN_MEANT, A.STOP,)),

    ("thinking", I.SPEECH_INTERRUPTS): ("none", (A.STOP, A.INTERRUPT)),
    ("thinking", I.CREATE): ("thinking", (A.REFUSE_ACTIVE,)),
    ("thinking", I.CANCEL): ("none", (A.STOP, A.CANCEL)),
    ("thinking", I.NOISE): ("none", (A.STOP, A.COMPLETE)),
    ("thinking", I.DELTA): ("speaking", (A.OPEN, A.PASS)),
    ("thinking", I.COMPLETED): ("none", (A.COMPLETE,)),
    ("thinking", I.INCOMPLETE): ("none", (A.INCOMPLETE,)),
    ("thinking", I.FAILED): ("none", (A.FAIL,)),
    ("thinking", I.CLOSED): ("none", (A.STOP, A.CANCEL)),

    ("speaking", I.SPEECH_INTERRUPTS): ("none", (A.STOP, A.INTERRUPT)),
    ("speaking", I.CREATE): ("speaking", (A.REFUSE_ACTIVE,)),
    ("speaking", I.CANCEL): ("none", (A.STOP, A.CANCEL)),
    ("speaking", I.DELTA): ("speaking", (A.PASS,)),
    ("speaking", I.COMPLETED): ("none", (A.COMPLETE,)),
    ("speaking", I.INCOMPLETE): ("none", (A.INCOMPLETE,)),
    ("speaking", I.FAILED): ("none", (A.FAIL,)),
    ("speaking", I.CLOSED): ("none", (A.STOP, A.CANCEL)),
}  # fmt: skip


def step(state: State, given: Input, number: int | None = None) -> tuple[State, tuple[Action, ...]]:
    """The next state, and what is to be done.

    Args:
        state: before.
        given: what happens.
        number: of the generator that reports it.
    """
    stale = given in GENERATOR_INPUTS and number != state.number
    if state.closed or stale:
        return state, ()
    reply, actions = TABLE.get((state.reply, given), (state.reply, ()))
    after = replace(state, reply=reply, hearing=_hears(state, given), closed=given is I.CLOSED)
    after = replace(after, owed=_is_owed(state, given))
    if after.owed and after.reply == "none" and not after.hearing:
        after, actions = replace(after, reply="considering", owed=False), (*actions, A.START)
    return replace(after, number=state.number + actions.count(A.START)), actions


def _hears(state: State, given: Input) -> bool:
    if given in (I.SPEECH_INTERRUPTS, I.SPEECH_OVERLAPS):
        return True
    return state.hearing and given not in (I.TURN_ENDED, I.TURN_DROPPED, I.CLOSED)


def _is_owed(state: State, given: Input) -> bool:
    """Whether a turn still waits for its answer, if none is started now."""
    if given is I.CLOSED:
        return False
    if given is I.CANCEL:
        return state.owed and state.is_active  # the response is cancelled, not the turn that waits behind it
    if given is I.TURN_ENDED:
        return state.is_active  # it is answered after the reply
    if given is I.CREATE:
        return state.owed and state.is_active  # a new response answers the turn, too
    return state.owed or (given is I.SPEECH_INTERRUPTS and state.reply == "considering")
