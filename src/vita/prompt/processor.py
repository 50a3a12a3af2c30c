"""From turns to prompt spans: counts tokens, makes the conversation fit the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from vita.config import VitaConfig
from vita.errors import RequestError
from vita.events import Usage
from vita.media.image import limit_tiles
from vita.media.policy import UNGUARDED, ReadGuard
from vita.prompt.template import SYSTEM, Modality, Turn, check_text, choose_modality, render
from vita.prompt.tokenizer import STATE_TOKENS, Tokenizer
from vita.prompt.turn_reader import PreparedTurn, TurnReader
from vita.runtime.clock import Stopwatch
from vita.types import MediaOptions, MediaSpan, Message, Span, Text, TextSpan

ANSWER_POSITIONS = 512  # positions that old turns give up for the answer
SYSTEM_POSITIONS = 128  # more than the system texts of the kinds of media differ by
TRIMMED_SHARE = 0.6  # of the context that is left after turns were dropped, so that the next turns find their prefix


@dataclass(frozen=True)
class ProcessedInputs:
    """A request ready for the encoders.

    Attributes:
        state_token: id of the response state token that the model is expected to say first; None: it has none.
    """

    spans: tuple[Span, ...]
    images: int
    audio_seconds: float
    dropped: int  # turns
    notes: tuple[str, ...]
    state_token: int | None = None

    @cached_property
    def length(self) -> int:
        """Positions of the prompt."""
        return sum(span.rows for span in self.spans)

    def media(self, kind: str) -> list[MediaSpan]:
        """The spans of one encoder, in order."""
        return [span for span in self.spans if isinstance(span, MediaSpan) and span.kind == kind]


class Processor(TurnReader):
    """Turns the conversations of one checkpoint into `ProcessedInputs`. Safe to use from several threads."""

    def __init__(self, config: VitaConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer

    def __call__(
        self, messages: Sequence[Message], options: MediaOptions, watch: Stopwatch, guard: ReadGuard = UNGUARDED
    ) -> ProcessedInputs:
        """Read, count, fit, encode.

        Raises:
            RequestError: no question, an unknown order of roles, or a last turn that is too long for the context.
            MediaError: a file that cannot be used. Cancelled: by the guard.
        """
        system, rest = split_system(messages)
        turns = [self.read_turn(message, options, watch, guard) for message in rest]
        return self.assemble(turns, system, watch)

    def check_options(self, options: MediaOptions) -> None:
        """Refuse what needs no file to be refused.

        Raises:
            RequestError: `max_tiles` is out of range, or the options are of another type.
        """
        if not isinstance(options, MediaOptions):
            raise RequestError(f"must be MediaOptions, not {type(options).__name__}", where="options")
        limit_tiles(self.config.tiling, options.max_tiles)

    def assemble(
        self, turns: Sequence[PreparedTurn], system: str | None, watch: Stopwatch, dropped: int = 0
    ) -> ProcessedInputs:
        """The prompt of a conversation whose media are decoded.

        Args:
            turns: oldest first.
            system: replaces the built-in system text.
            watch: of the request.
            dropped: older turns that an earlier prompt of the conversation left out already.

        Raises:
            RequestError: the last turn is too long for the context.
        """
        with watch.stage("preprocess"):
            merged = self._with_state_tokens(merge_turns(turns))
            kept, spans = self._drop_old_turns(merged, system)
        notes = [note for turn in kept for note in turn.notes]
        dropped += len(merged) - len(kept)
        if dropped:
            notes.append(f"The {dropped} oldest messages were left out so that the rest fits the context.")
        return ProcessedInputs(
            tuple(spans), sum(turn.images for turn in kept), sum(turn.audio_seconds for turn in kept), dropped,
            tuple(notes), self._state_token(kept[-1].is_spoken),
        )  # fmt: skip

    def _with_state_tokens(self, turns: Sequence[PreparedTurn]) -> list[PreparedTurn]:
        """Earlier answers start with their response state token, as the model was trained to see them."""
        spoken = False
        out: list[PreparedTurn] = []
        for turn in turns:
            if turn.role == "user":
                spoken = turn.is_spoken
            elif turn.pieces and isinstance(first := turn.pieces[0], str):
                has_state = first.startswith(tuple(STATE_TOKENS))
                if not has_state and self._state_token(spoken) is not None:
                    turn = replace(turn, pieces=(_expected_state(spoken) + first, *turn.pieces[1:]))
            out.append(turn)
        return out

    def _state_token(self, spoken: bool) -> int | None:
        """Id of the state that answers a spoken or a typed question; None: it is not one token."""
        text = _expected_state(spoken)
        known = self.tokenizer.backend.token_to_id(text)
        ids = [known] if known is not None else self.tokenizer.encode(text)
        return ids[0] if len(ids) == 1 else None

    def _drop_old_turns(self, turns: list[PreparedTurn], system: str | None) -> tuple[list[PreparedTurn], list[Span]]:
        """Drop the oldest turns if the rest does not fit with room for an answer; a lone turn may fill the context.

        When turns must go, so many go at once that the prompt takes at most 60 % of the context: the next turns of the
        conversation then begin alike and find their prefix in the cache.

        Raises:
            RequestError: the last turn is too long for the context.
        """
        spans = self._spans(turns, system)
        length = sum(span.rows for span in spans)
        if length + SYSTEM_POSITIONS <= self._limit_with_answer():
            return turns, spans  # nothing had to go earlier either: those prompts were shorter
        kept = turns[self._first_kept(turns, system) :]
        spans = self._spans(kept, system)
        length = sum(span.rows for span in spans)
        if length > self.config.context - 1:
            raise RequestError(
                f"the question takes {length} tokens and the model's context is {self.config.context}",
                fix="shorten the text, or send fewer or smaller images and shorter audio",
            )
        return kept, spans

    def _first_kept(self, turns: Sequence[PreparedTurn], system: str | None) -> int:
        """Index of the oldest turn that is kept.

        The conversation is replayed: every prompt that it had starts where the one before started, unless that is too
        long. So the turns that are dropped are the same in the next prompt, whose prefix is then found in the cache.
        Each turn is tokenised once.
        """
        with_answer, target = self._limit_with_answer(), int(TRIMMED_SHARE * self.config.context)
        empty = self._rows((), system="")
        rows = [self._rows((turn,), system="") - empty for turn in turns]
        # The system text depends on the kinds of media that are kept.
        base = {kind: self._rows((), system=text if system is None else system) for kind, text in SYSTEM.items()}
        largest, first, length = max(base.values()), 0, 0
        for end, turn in enumerate(turns, start=1):
            length += rows[end - 1]
            if turn.role != "user":
                continue
            allowed = with_answer
            while first < end - 1 and length + largest > allowed:
                if length + base[_modality(turns[first:end])] <= allowed:
                    break
                following = next(i for i in range(first + 1, end) if turns[i].role == "user")
                length -= sum(rows[first:following])
                first, allowed = following, target
        return first

    def _limit_with_answer(self) -> int:
        """Positions that a prompt may take if an answer is to fit behind it."""
        return self.config.context - 1 - min(ANSWER_POSITIONS, self.config.context // 8)

    def _rows(self, turns: Sequence[PreparedTurn], system: str) -> int:
        """Positions of a prompt."""
        return sum(span.rows for span in self._spans(turns, system))

    def _spans(self, turns: Sequence[PreparedTurn], system: str | None) -> list[Span]:
        return render([Turn(t.role, t.pieces) for t in turns], self.tokenizer, system=system)


def _modality(turns: Sequence[PreparedTurn]) -> Modality:
    return choose_modality([Turn(turn.role, turn.pieces) for turn in turns])


def merge_turns(turns: Sequence[PreparedTurn]) -> list[PreparedTurn]:
    """Neighbouring turns of one role become one turn: their pieces in order."""
    merged: list[PreparedTurn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            last = merged[-1]
            merged[-1] = PreparedTurn(
                turn.role, (*last.pieces, *turn.pieces), last.images + turn.images,
                last.audio_seconds + turn.audio_seconds, (*last.notes, *turn.notes),
            )  # fmt: skip
        else:
            merged.append(turn)
    return merged


def without_oldest(turns: Sequence[PreparedTurn], count: int) -> list[PreparedTurn]:
    """The turns without the oldest ones, where `count` is in turns as `merge_turns` merges them."""
    rest = list(turns)
    for _ in range(count):
        role = rest[0].role if rest else None
        while rest and rest[0].role == role:
            rest.pop(0)
    return rest


def split_system(messages: Sequence[Message]) -> tuple[str | None, list[Message]]:
    """The leading system message, if any, and the turns.

    Raises:
        RequestError: no turns, an unknown role, a system message that is not the first, or a conversation that does not
            begin and end with the user, or a text that is not a `str`.
    """
    rest = list(messages)
    for number, message in enumerate(rest, start=1):
        if not isinstance(message, Message):
            raise RequestError(
                f"item {number} is a {type(message).__name__}, not a Message", where="messages",
                fix="make it with user(), assistant() or system()",
            )  # fmt: skip
        for part in message.parts:
            if isinstance(part, Text):
                check_text(part.text, "the system text" if message.role == "system" else f"the {message.role}'s text")
    system = rest.pop(0).text if rest and rest[0].role == "system" else None
    if not rest:
        raise RequestError("there is no question", fix="give a text, an image, a video or audio")
    for index, message in enumerate(rest):
        if message.role not in ("user", "assistant") or (index == 0 and message.role != "user"):
            raise RequestError(
                f"message {index + 1} has the role {message.role!r}",
                fix="begin with the user; a system message may only stand first",
            )
    if rest[-1].role != "user":
        raise RequestError("the last message must be the user's")
    if not any(not isinstance(p, Text) or p.text.strip() for p in rest[-1].parts):
        raise RequestError("there is no question", fix="give a text, an image, a video or audio")
    return system, rest


def count_tokens(spans: Sequence[Span]) -> tuple[int, int, int]:
    """Positions that are text, image and audio."""
    text = sum(span.rows for span in spans if isinstance(span, TextSpan))
    image = sum(span.rows for span in spans if isinstance(span, MediaSpan) and span.kind == "image")
    return text, image, sum(span.rows for span in spans) - text - image


def prompt_usage(inputs: ProcessedInputs, *, reused: int, completion: int, reasoning: int = 0) -> Usage:
    """What a request has used.

    Args:
        inputs: its prompt.
        reused: positions of the prompt that were found in the prefix cache.
        completion: tokens of the answer.
        reasoning: of them, those of the reasoning.
    """
    text, image, audio = count_tokens(inputs.spans)
    return Usage(
        prompt_tokens=inputs.length, text_tokens=text, image_tokens=image, audio_tokens=audio,
        completion_tokens=completion, reasoning_tokens=reasoning, reused_tokens=reused,
        tiles=len(inputs.media("image")), images=inputs.images, audio_seconds=inputs.audio_seconds,
        dropped_messages=inputs.dropped,
    )  # fmt: skip


def _expected_state(spoken: bool) -> str:
    return "☞" if spoken else "☜"
