"""The settings of a realtime session: defaults, merge of updates, and the object that is sent back.

An update merges into the session: a field that is absent stays as it is, one that is null gets its default, or is
cleared. Names of models and voices that are not here stand for the loaded model and the default voice, and the session
that is sent back says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

from vita.serve.errors import JSON
from vita.serve.realtime.dialect import settings_to_ga
from vita.serve.realtime.events import Object, RealtimeError, mapping

PCM_RATE, G711_RATE = 24_000, 8_000
FORMATS = ("audio/pcm", "audio/pcmu", "audio/pcma")
Eagerness = Literal["low", "medium", "high", "auto"]
EAGERNESS: tuple[Eagerness, ...] = get_args(Eagerness)
NOISE_REDUCTIONS = ("near_field", "far_field")
TOOL_CHOICES = ("auto", "none", "required")
MIN_SPEED, MAX_SPEED = 0.25, 1.5
MAX_INSTRUCTIONS = 100_000  # characters
MAX_TOOLS = 128
MAX_OUTPUT_TOKENS = 4096
# Accepted, sent back and not used.
ECHOED = ("parallel_tool_calls", "reasoning", "truncation", "tracing", "include", "prompt")
MAX_ECHOED = 64 << 10  # characters of what is only sent back, written as JSON

Kind = Literal["realtime", "transcription"]
Format = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
Modality = Literal["audio", "text"]


@dataclass(frozen=True)
class Catalog:
    """What is loaded.

    Attributes:
        model: name of the loaded model.
        voice: name of the default voice.
        voices: names of all voices.
    """

    model: str
    voice: str
    voices: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class TurnDetection:
    """How the turns of the user are found; the fields are OpenAI's."""

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    idle_timeout_ms: int | None = None
    eagerness: Eagerness = "auto"
    create_response: bool = True
    interrupt_response: bool = True

    def as_json(self) -> dict[str, JSON]:
        """OpenAI's object."""
        both: dict[str, JSON] = {
            "create_response": self.create_response, "interrupt_response": self.interrupt_response,
        }  # fmt: skip
        if self.type == "semantic_vad":
            return {"type": self.type, "eagerness": self.eagerness, **both}
        return {
            "type": self.type, "threshold": self.threshold, "prefix_padding_ms": self.prefix_padding_ms,
            "silence_duration_ms": self.silence_duration_ms, "idle_timeout_ms": self.idle_timeout_ms, **both,
        }  # fmt: skip


@dataclass(frozen=True)
class Transcription:
    """Input transcription is wanted.

    Attributes:
        options: language, prompt and the like: sent back.
    """

    options: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Session:
    """The effective settings of one session."""

    id: str
    catalog: Catalog
    expires_at: int
    kind: Kind = "realtime"
    modality: Modality = "audio"
    instructions: str = ""
    max_output_tokens: int | None = None  # None: "inf"
    tools: tuple[Object, ...] = ()
    tool_choice: JSON = "auto"
    temperature: float | None = None
    input_format: Format = "audio/pcm"
    output_format: Format = "audio/pcm"
    transcription: Transcription | None = None
    noise_reduction: Object | None = None
    turn_detection: TurnDetection | None = field(default_factory=TurnDetection)
    voice: str = ""
    speed: float = 1.0
    echoed: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def input_rate(self) -> int:
        """Samples per second of the input."""
        return rate_of(self.input_format)

    @property
    def answers_turns(self) -> bool:
        """Whether a turn is answered when it ends, without being asked to."""
        return self.turn_detection is None or self.turn_detection.create_response

    def merge(self, update: Object) -> Session:
        """The session after an update, in any dialect.

        Raises:
            RealtimeError: a value that cannot be used; this session stays in force.
        """
        given = settings_to_ga(update)
        session = self
        if "type" in given:
            session = replace(session, kind=_kind(given["type"]))
        session = _merge_common(session, given, "session")
        if "audio" in given:
            audio = mapping(given["audio"] or {}, "session.audio")
            session = _merge_input(session, mapping(audio.get("input") or {}, "session.audio.input"))
            session = _merge_output(session, mapping(audio.get("output") or {}, "session.audio.output"), "session")
        echoed = {**self.echoed, **{key: given[key] for key in ECHOED if key in given}}
        if len(repr(echoed)) > MAX_ECHOED:
            raise RealtimeError("The session's settings are too long.", "invalid_value", "session")
        return replace(session, echoed=echoed)

    def for_response(self, settings: Object) -> Session:
        """The session with the settings of one response.

        Raises:
            RealtimeError: a value that cannot be used.
        """
        given = settings_to_ga(settings)
        session = _merge_common(self, given, "response")
        audio = mapping(given.get("audio") or {}, "response.audio")
        return _merge_output(session, mapping(audio.get("output") or {}, "response.audio.output"), "response")

    def as_json(self) -> dict[str, JSON]:
        """OpenAI's object: the whole effective session."""
        detection = None if self.turn_detection is None else self.turn_detection.as_json()
        audio_input: dict[str, JSON] = {
            "format": format_json(self.input_format),
            "transcription": (
                None if self.transcription is None else {**self.transcription.options, "model": self.catalog.model}
            ),
            "noise_reduction": self.noise_reduction,
            "turn_detection": detection,
        }
        common: dict[str, JSON] = {
            "type": self.kind, "object": "realtime.session", "id": self.id, "expires_at": self.expires_at,
        }  # fmt: skip
        if self.kind == "transcription":
            return {**common, "object": "realtime.transcription_session", "audio": {"input": audio_input}}
        return {
            **common, "model": self.catalog.model, "output_modalities": [self.modality],
            "instructions": self.instructions, "max_output_tokens": self.max_output_tokens or "inf",
            "tools": list(self.tools), "tool_choice": self.tool_choice,
            **({} if self.temperature is None else {"temperature": self.temperature}),
            "audio": {
                "input": audio_input,
                "output": {"format": format_json(self.output_format), "voice": self.voice, "speed": self.speed},
            },
            **self.echoed,
        }  # fmt: skip


def new_session(session_id: str, catalog: Catalog, expires_at: int) -> Session:
    """The settings of a session before any update. Where no voice is installed, answers are text."""
    modality: Modality = "audio" if catalog.voices else "text"
    return Session(id=session_id, catalog=catalog, expires_at=expires_at, modality=modality, voice=catalog.voice)


def rate_of(form: Format) -> int:
    """Samples per second of a format."""
    return PCM_RATE if form == "audio/pcm" else G711_RATE


def format_json(form: Format) -> dict[str, JSON]:
    """OpenAI's object for a format."""
    return {"type": form, "rate": PCM_RATE} if form == "audio/pcm" else {"type": form}


def _merge_common(session: Session, given: Object, where: str) -> Session:
    """Fields that sessions and responses share."""
    if "output_modalities" in given:
        session = replace(session, modality=_modality(given["output_modalities"], f"{where}.output_modalities"))
    if "instructions" in given:
        text = given["instructions"] or ""
        if not isinstance(text, str) or len(text) > MAX_INSTRUCTIONS:
            what = f"instructions must be a string of at most {MAX_INSTRUCTIONS:,} characters."
            raise RealtimeError(what, "invalid_value", f"{where}.instructions")
        session = replace(session, instructions=text)
    if "max_output_tokens" in given:
        tokens = _max_tokens(given["max_output_tokens"], f"{where}.max_output_tokens")
        session = replace(session, max_output_tokens=tokens)
    if "temperature" in given:
        value = given["temperature"]
        temperature = None if value is None else _number(value, 0, 2, f"{where}.temperature")
        session = replace(session, temperature=temperature)
    if "tools" in given:
        session = replace(session, tools=_tools(given["tools"], f"{where}.tools"))
    if "tool_choice" in given:
        choice = given["tool_choice"] or "auto"
        if choice not in TOOL_CHOICES and not isinstance(choice, Mapping):
            raise RealtimeError("tool_choice must be auto, none, required or a function.", param=f"{where}.tool_choice")
        session = replace(session, tool_choice=choice)
    return session


def _merge_input(session: Session, given: Object) -> Session:
    where = "session.audio.input"
    if "format" in given:
        session = replace(session, input_format=_format(given["format"], f"{where}.format"))
    if "transcription" in given:
        wanted = given["transcription"] or None
        options = None if wanted is None else Transcription(dict(mapping(wanted, f"{where}.transcription")))
        if options is not None and len(repr(options)) > MAX_ECHOED:
            raise RealtimeError("The settings of the transcription are too long.", param=f"{where}.transcription")
        session = replace(session, transcription=options)
    if "noise_reduction" in given:
        reduction = given["noise_reduction"] or None
        if reduction is not None:
            reduction = mapping(reduction, f"{where}.noise_reduction")
            kind = _one_of(reduction.get("type"), NOISE_REDUCTIONS, f"{where}.noise_reduction.type")
            reduction = {"type": kind}
        session = replace(session, noise_reduction=reduction)
    if "turn_detection" in given:
        wanted = given["turn_detection"] or None  # one client sends false for null
        found = None
        if wanted is not None:
            found = _detection(session.turn_detection, mapping(wanted, f"{where}.turn_detection"))
        session = replace(session, turn_detection=found)
    return session


def _merge_output(session: Session, given: Object, where: str) -> Session:
    where = f"{where}.audio.output"
    if "format" in given:
        session = replace(session, output_format=_format(given["format"], f"{where}.format"))
    if "voice" in given:
        voice = given["voice"]
        name = voice.get("id") if isinstance(voice, Mapping) else voice
        known = isinstance(name, str) and name in session.catalog.voices
        session = replace(session, voice=str(name) if known else session.catalog.voice)
    if "speed" in given:
        speed = given["speed"]
        session = replace(
            session, speed=1.0 if speed is None else _number(speed, MIN_SPEED, MAX_SPEED, f"{where}.speed")
        )
    return session


def _detection(before: TurnDetection | None, given: Object) -> TurnDetection:
    where = "session.audio.input.turn_detection"
    kind = given.get("type") or (before.type if before else "server_vad")
    if kind not in ("server_vad", "semantic_vad"):
        raise RealtimeError("turn_detection must be server_vad or semantic_vad.", param=f"{where}.type")
    default = TurnDetection(type="server_vad" if kind == "server_vad" else "semantic_vad")
    found = before if before is not None and before.type == kind else default

    def milliseconds(name: str, low: int, high: int) -> int | None:
        value = given[name]
        return None if value is None else int(_number(value, low, high, f"{where}.{name}"))

    if "prefix_padding_ms" in given:
        padding = milliseconds("prefix_padding_ms", 0, 10_000)
        found = replace(found, prefix_padding_ms=300 if padding is None else padding)
    if "silence_duration_ms" in given:
        found = replace(found, silence_duration_ms=milliseconds("silence_duration_ms", 32, 60_000) or 500)
    if "idle_timeout_ms" in given:
        found = replace(found, idle_timeout_ms=milliseconds("idle_timeout_ms", 1_000, 600_000))
    if "threshold" in given:
        value = given["threshold"]
        found = replace(found, threshold=0.5 if value is None else _number(value, 0.01, 0.99, f"{where}.threshold"))
    if "create_response" in given:
        found = replace(found, create_response=_flag(given["create_response"], f"{where}.create_response"))
    if "interrupt_response" in given:
        found = replace(found, interrupt_response=_flag(given["interrupt_response"], f"{where}.interrupt_response"))
    if "eagerness" in given:
        eagerness = given["eagerness"] or "auto"
        if eagerness not in EAGERNESS:
            raise RealtimeError(f"eagerness must be one of {', '.join(EAGERNESS)}.", param=f"{where}.eagerness")
        found = replace(found, eagerness=eagerness)
    return found


def _flag(value: JSON, param: str) -> bool:
    """A boolean whose default is true."""
    if not isinstance(value, bool | None):
        raise RealtimeError(f"{param} must be true or false.", "invalid_type", param)
    return value is not False


def _kind(value: JSON) -> Kind:
    if value not in ("realtime", "transcription"):
        raise RealtimeError("session.type must be realtime or transcription.", "invalid_value", "session.type")
    return "realtime" if value == "realtime" else "transcription"


def _modality(value: JSON, param: str) -> Modality:
    if value is None:
        return "audio"
    if (
        not isinstance(value, Sequence)
        or isinstance(value, str)
        or not value
        or not all(m in ("audio", "text") for m in value)
    ):
        raise RealtimeError('output_modalities must be ["audio"] or ["text"].', "invalid_value", param)
    return "audio" if "audio" in value else "text"  # audio brings a transcript


def _max_tokens(value: JSON, param: str) -> int | None:
    if value in (None, "inf"):
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RealtimeError(f'{param} must be "inf" or 1 to {MAX_OUTPUT_TOKENS}.', "invalid_value", param)
    return min(value, MAX_OUTPUT_TOKENS)


def _tools(value: JSON, param: str) -> tuple[Object, ...]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MAX_TOOLS:
        raise RealtimeError(f"{param} must be a list of at most {MAX_TOOLS} tools.", "invalid_type", param)
    tools = tuple(mapping(tool, f"{param}[{n}]") for n, tool in enumerate(value))
    if len(repr(tools)) > MAX_ECHOED:
        raise RealtimeError("The tools are too long.", "invalid_value", param)
    return tools


def _format(value: JSON, param: str) -> Format:
    if value is None:
        return "audio/pcm"
    if isinstance(value, str):  # the type alone
        value = {"type": value}
    given = mapping(value, param)
    kind = _one_of(given.get("type"), FORMATS, f"{param}.type")
    rate = given.get("rate")
    if rate not in (None, rate_of(cast(Format, kind))):
        raise RealtimeError(f"{kind} has {rate_of(cast(Format, kind))} samples per second.", param=f"{param}.rate")
    return cast(Format, kind)


def _one_of(value: JSON, allowed: Sequence[str], param: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise RealtimeError(f"{param} must be one of {', '.join(allowed)}.", "invalid_value", param)
    return value


def _number(value: JSON, low: float, high: float, param: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= cast(float, value) <= high:  # refuses NaN and infinities, too
        raise RealtimeError(f"{param} must be a number from {low} to {high}.", "invalid_value", param)
    return cast(float, value)
