"""The beta dialect of Realtime: one table of names, read both ways.

A client that sends the header `OpenAI-Beta: realtime=v1` gets beta events. Beta names in what clients send are always
understood. Inside, everything is GA.
"""

from __future__ import annotations

from collections.abc import Mapping

from vita.serve.errors import JSON
from vita.serve.realtime.events import Event, Object

HEADER, HEADER_VALUE = "openai-beta", "realtime=v1"

# (beta, GA); None: the event is not sent in that dialect.
EVENTS: tuple[tuple[str | None, str], ...] = (
    ("conversation.item.created", "conversation.item.added"),
    (None, "conversation.item.done"),
    ("response.text.delta", "response.output_text.delta"),
    ("response.text.done", "response.output_text.done"),
    ("response.audio.delta", "response.output_audio.delta"),
    ("response.audio.done", "response.output_audio.done"),
    ("response.audio_transcript.delta", "response.output_audio_transcript.delta"),
    ("response.audio_transcript.done", "response.output_audio_transcript.done"),
    ("transcription_session.update", "session.update"),
)
PARTS = (("text", "output_text"), ("audio", "output_audio"))  # content of the assistant
FORMATS = (("pcm16", "audio/pcm"), ("g711_ulaw", "audio/pcmu"), ("g711_alaw", "audio/pcma"))
# Fields of a session, of a response too, and where GA has them.
FIELDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("modalities", ("output_modalities",)),
    ("voice", ("audio", "output", "voice")),
    ("speed", ("audio", "output", "speed")),
    ("input_audio_format", ("audio", "input", "format")),
    ("output_audio_format", ("audio", "output", "format")),
    ("input_audio_transcription", ("audio", "input", "transcription")),
    ("input_audio_noise_reduction", ("audio", "input", "noise_reduction")),
    ("turn_detection", ("audio", "input", "turn_detection")),
    ("max_response_output_tokens", ("max_output_tokens",)),
)

_TO_BETA_EVENT = {ga: beta for beta, ga in EVENTS if ga.startswith(("conversation.", "response."))}
_TO_BETA_PART = {ga: beta for beta, ga in PARTS}
_TO_GA_PART = dict(PARTS)
_TO_BETA_FORMAT = {ga: beta for beta, ga in FORMATS}
_TO_GA_FORMAT = dict(FORMATS)
_BETA_FIELDS = dict(FIELDS)


def is_beta(headers: Mapping[str, str]) -> bool:
    """Whether a client asks for the beta dialect; header names in lower case."""
    return HEADER_VALUE in headers.get(HEADER, "")


def client_event_to_ga(body: Object) -> Object:
    """A client's event with GA names; one that has them already stays as it is."""
    kind = body.get("type")
    if kind == "transcription_session.update":
        session = body.get("session")
        flat = dict(session) if isinstance(session, Mapping) else {}
        return {**body, "type": "session.update", "session": {"type": "transcription", **flat}}
    return body


def settings_to_ga(settings: Object) -> dict[str, JSON]:
    """A session or the settings of a response: flat beta fields move to where GA has them."""
    out: dict[str, JSON] = {key: value for key, value in settings.items() if key not in _BETA_FIELDS}
    for key, path in FIELDS:
        if key in settings:
            _put(out, path, _value_to_ga(key, settings[key]))
    return out


def _value_to_ga(key: str, value: JSON) -> JSON:
    if key == "modalities" and isinstance(value, (list, tuple)):
        return ["audio"] if "audio" in value else list(value)
    if key.endswith("_audio_format") and isinstance(value, str):
        kind = _TO_GA_FORMAT.get(value, value)
        return {"type": kind, "rate": 24_000} if kind == "audio/pcm" else {"type": kind}
    return value


def _put(target: dict[str, JSON], path: tuple[str, ...], value: JSON) -> None:
    """Set a nested field, unless the GA field is there, too."""
    for step in path[:-1]:
        inner = target.get(step)
        target[step] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        target = inner
    target.setdefault(path[-1], value)


def part_type_to_ga(kind: str) -> str:
    """The type of an assistant's content part."""
    return _TO_GA_PART.get(kind, kind)


def server_event_to_beta(event: Event) -> Event | None:
    """A server event in the beta dialect; None if that dialect has none."""
    kind = str(event["type"])
    name = _TO_BETA_EVENT.get(kind, kind)
    if name is None:
        return None
    session = event.get("session")
    if isinstance(session, Mapping) and session.get("type") == "transcription":
        name = f"transcription_{name}"
    out: Event = {**event, "type": name}
    for key, translate in (("session", session_to_beta), ("item", _item_to_beta), ("response", _response_to_beta)):
        value = event.get(key)
        if isinstance(value, Mapping):
            out[key] = translate(value)
    return out


def session_to_beta(session: Object) -> dict[str, JSON]:
    """A GA session, flat."""
    out: dict[str, JSON] = {
        key: value
        for key, value in session.items()
        if key not in ("type", "audio", "output_modalities", "max_output_tokens")
    }
    for key, path in FIELDS:
        value: JSON = session
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        if key == "modalities":
            value = ["text", "audio"] if isinstance(value, (list, tuple)) and "audio" in value else ["text"]
        elif key.endswith("_audio_format") and isinstance(value, Mapping):
            value = _TO_BETA_FORMAT[str(value["type"])]
        out[key] = value
    return out


def _item_to_beta(item: Object) -> dict[str, JSON]:
    content = item.get("content")
    if item.get("role") != "assistant" or not isinstance(content, (list, tuple)):
        return dict(item)
    parts: list[JSON] = [
        {**part, "type": _TO_BETA_PART.get(str(part.get("type")), part.get("type"))}
        for part in content
        if isinstance(part, Mapping)
    ]
    return {**item, "content": parts}


def _response_to_beta(response: Object) -> dict[str, JSON]:
    output = response.get("output")
    items: list[JSON] = []
    if isinstance(output, (list, tuple)):
        items = [_item_to_beta(item) for item in output if isinstance(item, Mapping)]
    modalities = response.get("output_modalities")
    both = isinstance(modalities, (list, tuple)) and "audio" in modalities
    kept = {key: value for key, value in response.items() if key not in ("output_modalities", "audio")}
    return {**kept, "output": items, "modalities": ["text", "audio"] if both else ["text"]}
