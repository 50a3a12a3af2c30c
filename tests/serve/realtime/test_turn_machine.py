"""The turn machine, explored in every state with every input, and a monitor of what a client would see."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.serve.realtime.turn_machine import (
    ENDS,
    GENERATOR_INPUTS,
    REPLIES,
    TABLE,
    Action,
    Input,
    State,
    step,
)

GENERATOR_ENDS = frozenset((Input.COMPLETED, Input.INCOMPLETE, Input.FAILED))


@dataclass(frozen=True)
class Monitor:
    """What a client and the engine see of the actions.

    Attributes:
        running: a generator runs.
        begun: it has reported its first token.
        announced: a response was announced and has not ended.
        opened: its item was opened.
    """

    running: bool = False
    begun: bool = False
    announced: bool = False
    opened: bool = False

    def possible(self, given_: Input) -> bool:
        """Whether a generator can report this now: its first token once, then deltas."""
        if given_ in (Input.MEANT, Input.NOISE):
            return self.running and not self.begun
        if given_ is Input.DELTA:
            return self.running and self.begun
        return self.running or given_ not in GENERATOR_INPUTS

    def see(self, given_: Input, actions: tuple[Action, ...]) -> Monitor:
        """Check the actions of one input."""
        seen = self
        if given_ in GENERATOR_ENDS:
            seen = replace(seen, running=False, begun=False)
        elif given_ in (Input.MEANT, Input.NOISE):
            seen = replace(seen, begun=True)
        for action in actions:
            if action is Action.START:
                assert not seen.running, "two generators"
                seen = replace(seen, running=True, begun=False)
            elif action is Action.STOP:
                assert seen.running, "nothing to stop"
                seen = replace(seen, running=False, begun=False)
            elif action is Action.ANNOUNCE:
                assert not seen.announced, "two active responses"
                assert seen.running or given_ in GENERATOR_ENDS
                seen = replace(seen, announced=True, opened=False)
            elif action is Action.OPEN:
                assert seen.announced and not seen.opened
                seen = replace(seen, opened=True)
            elif action is Action.PASS:
                assert seen.announced and seen.opened, "a delta outside of a response"
            elif action in ENDS:
                assert seen.announced, "the end of a response that nobody saw"
                seen = replace(seen, announced=False, opened=False)
            elif action is Action.REFUSE_ACTIVE:
                assert seen.announced
            elif action is Action.REFUSE_NOT_ACTIVE:
                assert not seen.announced
        return seen


Node = tuple[State, Monitor]


def follow(node: Node, given_: Input, number: int | None = None) -> tuple[Node, tuple[Action, ...]]:
    state, monitor = node
    number = state.number if number is None else number
    after, actions = step(state, given_, number)
    if given_ in GENERATOR_INPUTS and number != state.number:
        assert (after, actions) == (state, ())
        return node, ()
    return (after, monitor.see(given_, actions)), actions


def normal(node: Node) -> Node:
    """Numbers only grow; a state does not depend on which one it is."""
    return replace(node[0], number=0), node[1]


def explore() -> dict[Node, tuple[Input, ...]]:
    """Every state that can be reached, with the inputs that lead there."""
    start: Node = (State(), Monitor())
    paths: dict[Node, tuple[Input, ...]] = {start: ()}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        for given_ in Input:
            if not node[1].possible(given_):
                continue
            after, _ = follow(node, given_)
            if normal(after) not in paths:
                paths[normal(after)] = (*paths[node], given_)
                waiting.append(normal(after))
    return paths


REACHED = explore()


def test_every_input_in_every_state_keeps_the_rules() -> None:
    """The rules are in `Monitor.see`: exploring checks them all."""
    assert {node[0].reply for node in REACHED} == set(REPLIES)
    assert {node[0].phase for node in REACHED} == {
        "idle", "hearing", "overlapping", "considering", "thinking", "speaking", "closed",
    }  # fmt: skip
    assert len(REACHED) > 15


def test_the_machine_knows_what_the_monitor_sees() -> None:
    for (state, monitor), path in REACHED.items():
        assert monitor.announced == state.is_active, path
        assert monitor.running == (state.reply != "none"), path
        assert monitor.opened == (state.reply == "speaking"), path


def test_every_response_ends_when_its_generator_does() -> None:
    for node, path in REACHED.items():
        for end in GENERATOR_ENDS:
            if node[1].announced:
                _, actions = follow(node, end)
                assert sum(action in ENDS for action in actions) == 1, path


def test_an_old_generator_changes_nothing() -> None:
    for node in REACHED:
        for given_ in GENERATOR_INPUTS:
            assert follow(node, given_, number=-1) == (node, ())


def test_no_delta_follows_a_cancel() -> None:
    ends = {Input.CANCEL: Action.CANCEL, Input.CLOSED: Action.CANCEL, Input.SPEECH_INTERRUPTS: Action.INTERRUPT}
    for node, path in REACHED.items():
        for given_, end in ends.items():
            if not node[1].announced:
                continue
            (after, seen), actions = follow(node, given_)
            assert actions[:2] == (Action.STOP, end), path
            assert not seen.announced and step(after, Input.DELTA, node[0].number)[1] == (), path


def test_a_turn_that_is_to_be_answered_is_answered() -> None:
    """A response is started for it at once, or as soon as the reply has ended and nobody speaks."""
    for node, path in REACHED.items():
        if node[0].closed:
            continue
        after, actions = follow(node, Input.TURN_ENDED)
        if Action.START in actions:
            continue
        assert after[0].owed, path
        after, actions = follow(after, Input.COMPLETED)
        assert Action.START in actions and not after[0].owed, path


def test_a_turn_that_waits_behind_a_response_survives_its_cancel() -> None:
    """The page cancels an answer when speech over it has ended: the question behind it is answered."""
    for node, path in REACHED.items():
        if not (node[0].owed and node[0].is_active):
            continue
        after, actions = follow(node, Input.CANCEL)
        assert actions[:2] == (Action.STOP, Action.CANCEL), path
        if node[0].hearing:
            after, actions = follow(after, Input.TURN_DROPPED)
        assert actions[-1] is Action.START and after[0].reply == "considering", path


def test_what_is_owed_is_not_forgotten_when_speech_proves_to_be_nothing() -> None:
    for node, path in REACHED.items():
        if node[0].owed and node[0].reply == "none":
            assert node[0].hearing, path
            _, actions = follow(node, Input.TURN_DROPPED)
            assert Action.START in actions, path


def test_a_noise_turn_is_never_announced() -> None:
    node: Node = (State(), Monitor())
    seen: list[Action] = []
    for given_ in (Input.SPEECH_INTERRUPTS, Input.TURN_ENDED, Input.NOISE):
        node, actions = follow(node, given_)
        seen += actions
    assert seen == [Action.START, Action.TURN_NOISE, Action.STOP] and node[0].phase == "idle"


def test_speech_ends_a_response_before_anything_else_happens() -> None:
    node: Node = (State(), Monitor())
    for given_ in (Input.CREATE, Input.MEANT, Input.DELTA):
        node, _ = follow(node, given_)
    node, actions = follow(node, Input.SPEECH_INTERRUPTS)
    assert actions == (Action.STOP, Action.INTERRUPT) and node[0].phase == "hearing"


def test_speech_that_may_not_interrupt_lets_the_response_go_on() -> None:
    node: Node = (State(), Monitor())
    for given_ in (Input.CREATE, Input.MEANT, Input.DELTA, Input.SPEECH_OVERLAPS):
        node, actions = follow(node, given_)
    assert actions == () and node[0].phase == "overlapping"
    node, actions = follow(node, Input.TURN_ENDED)
    assert actions == () and node[0].owed
    _, actions = follow(node, Input.COMPLETED)
    assert actions == (Action.COMPLETE, Action.START)


def test_a_pause_within_a_turn_gives_one_answer() -> None:
    """The user goes on before the answer was announced: nothing was seen, and one answer follows."""
    node: Node = (State(), Monitor())
    seen: list[Action] = []
    for given_ in (
        Input.SPEECH_INTERRUPTS, Input.TURN_ENDED, Input.SPEECH_INTERRUPTS, Input.TURN_ENDED, Input.MEANT, Input.DELTA,
        Input.COMPLETED,
    ):  # fmt: skip
        node, actions = follow(node, given_)
        seen += actions
    assert seen.count(Action.ANNOUNCE) == 1 and seen.count(Action.START) == 2


def test_the_table_holds_no_row_that_cannot_happen() -> None:
    used = {(node[0].reply, given_) for node in REACHED for given_ in Input if node[1].possible(given_)}
    assert set(TABLE) <= used


@pytest.mark.parametrize("given_", list(Input))
def test_nothing_happens_after_the_client_is_gone(given_: Input) -> None:
    closed = State(closed=True, number=3)
    assert step(closed, given_, 3) == (closed, ())


@given(st.lists(st.tuples(st.sampled_from(list(Input)), st.integers(-2, 0)), max_size=60))
def test_long_sequences_keep_the_rules(inputs: list[tuple[Input, int]]) -> None:
    """Generators also report late, under an older number."""
    node: Node = (State(), Monitor())
    for given_, back in inputs:
        if back == 0 and not node[1].possible(given_):
            continue
        node, _ = follow(node, given_, node[0].number + (back if given_ in GENERATOR_INPUTS else 0))
    (state, monitor), _ = follow(node, Input.CLOSED)
    assert state.closed and not monitor.announced and not monitor.running
