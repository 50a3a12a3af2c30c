"""Realtime over a WebSocket, with the embedded model and a voice: the turns that clients of the specification take."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soxr
from websockets.exceptions import InvalidStatus

import vita
from tests.serve.realtime.client import Client, as_pcm, audio_of, connected, is_question, question, silence
from tests.serve.running import Running, running
from tests.speech.recordings import NO_SPEECH, recording
from vita.serve.options import ServeOptions
from vita.serve.realtime import g711
from vita.serve.realtime.events import DELTAS
from vita.speech.voice import Voice

PREFIX = "conversation.item.input_audio_transcription"
WITH_TRANSCRIPT = {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}}
MANUAL = {"input": {"turn_detection": None}}


@pytest.fixture(scope="module")
def talking(embedded: vita.Vita, espeak: Voice) -> Iterator[Running]:
    """A server whose voice is espeak's."""
    with running(embedded, ServeOptions(port=0, voice="espeak")) as server:
        yield server


@pytest.fixture
def client(talking: Running) -> Iterator[Client]:
    with connected(talking) as one:
        yield one


def test_ten_spoken_turns(client: Client) -> None:
    """Each is heard, written down and answered."""
    client.update(audio=WITH_TRANSCRIPT)
    for count in range(1, 11):
        client.speak()
        client.until("response.done", lambda event: event["response"]["status"] == "completed")
        answer: Any = client.wire.last("response.done")["response"]["output"][0]["content"][0]
        assert answer["type"] == "output_audio" and answer["transcript"]
        while client.wire.kinds().count(f"{PREFIX}.completed") < count:
            client.receive()
    assert "error" not in client.wire.kinds()
    transcripts = [event["transcript"] for event in client.wire.events if event["type"] == f"{PREFIX}.completed"]
    assert all(is_question(text) for text in transcripts)


def test_an_answer_is_audio_of_its_transcript(client: Client) -> None:
    client.create_text("What can you do?")
    client.send("response.create")
    done = client.until("response.done")["response"]
    pcm = np.frombuffer(audio_of(client.wire.events), "<i2")
    assert len(pcm) > 24_000 and np.abs(pcm).max() > 1000
    assert client.wire.said[done["id"]] == done["output"][0]["content"][0]["transcript"]
    usage = done["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
def test_interrupting_at_random_points(client: Client, seed: int) -> None:
    """No delta follows the end of the response, and the model is told what can have been heard."""
    dice = random.Random(seed)
    client.create_text("What can you do?")
    for _ in range(4):
        client.send("response.create")
        for _ in range(dice.randrange(1, 25)):
            client.receive()
        client.append(np.concatenate([question(), silence(0.4)]))
        client.until("input_audio_buffer.speech_started")
        at = client.taken
        client.append(silence(0.8))
        client.until("input_audio_buffer.speech_stopped")
        before = client.since(at)
        assert not DELTAS & set(before[before.index("response.done") :] if "response.done" in before else before)
        client.until("response.created")
        client.send("response.cancel")
        client.until("response.done")
    for event in [event for event in client.wire.events if event["type"] == "response.done"]:
        response = event["response"]
        if response["status"] == "cancelled" and response["output"]:
            kept = response["output"][0]["content"][0]["transcript"]
            assert client.wire.said[response["id"]].startswith(kept)


@pytest.mark.parametrize("eagerness", ["high", "medium", None])
def test_turn_detection_of_each_kind(client: Client, eagerness: str | None) -> None:
    kind: dict[str, Any] = {"type": "semantic_vad", "eagerness": eagerness} if eagerness else {"type": "server_vad"}
    detection = client.update(audio={"input": {"turn_detection": kind}})["audio"]["input"]["turn_detection"]
    assert detection["type"] == kind["type"]
    client.append(np.concatenate([question(), silence(2.0)]))
    client.until("response.done")
    kinds = client.wire.kinds()
    order = [
        "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed",
        "conversation.item.done", "response.created",
    ]  # fmt: skip
    assert [kinds.index(name) for name in order] == sorted(kinds.index(name) for name in order)


def test_manual_turns(client: Client) -> None:
    """Committing gives no answer by itself."""
    client.update(audio=MANUAL)
    client.append(question())
    client.send("input_audio_buffer.commit")
    client.until("input_audio_buffer.committed")
    client.send("conversation.item.retrieve", item_id=client.wire.last("input_audio_buffer.committed")["item_id"])
    client.until("conversation.item.retrieved")
    assert (
        "response.created" not in client.wire.kinds() and "input_audio_buffer.speech_started" not in client.wire.kinds()
    )
    client.send("response.create")
    assert client.until("response.done")["response"]["status"] == "completed"


def test_the_interruption_of_pipecat_in_manual_mode(client: Client) -> None:
    client.update(audio=MANUAL)
    client.create_text("What can you do?")
    client.send("response.create")
    client.until("response.output_audio.delta")
    item_id = client.wire.open_item
    client.send("input_audio_buffer.clear")
    client.append(question()[:12_000])
    client.send("response.cancel")
    client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=40)
    client.until("conversation.item.truncated")
    client.append(question()[12_000:])
    client.send("input_audio_buffer.commit")
    client.send("response.create")
    client.until("response.done", lambda event: event["response"]["status"] == "completed")
    assert "error" not in client.wire.kinds()


def test_settings_of_open_webui(client: Client) -> None:
    """Neither answers nor cancels, but hears and writes down."""
    detection = {"type": "server_vad", "create_response": False, "interrupt_response": False}
    client.update(audio={"input": {"turn_detection": detection, "transcription": {"model": "whisper-1"}}})
    client.speak()
    assert is_question(client.until(f"{PREFIX}.completed")["transcript"])
    assert "response.created" not in client.wire.kinds()
    client.send("response.create")
    client.until("response.output_audio.delta")
    client.speak()
    assert client.until("response.done")["response"]["status"] == "completed"


def test_a_call_of_open_webui(client: Client) -> None:
    """Version 0.12: it asks for a response when it has the transcript, and any error but one ends its call."""
    pcm = {"type": "audio/pcm", "rate": 24_000}
    tool = {
        "type": "function",
        "name": "generate_chat_completion",
        "description": "…",
        "parameters": {"type": "object"},
    }
    detection = {"type": "server_vad", "interrupt_response": True, "create_response": False}
    heard = {"format": pcm, "transcription": {"model": "gpt-transcribe"}, "turn_detection": detection}
    assert client.receive()["type"] == "session.created"
    session = {
        "type": "realtime", "output_modalities": ["audio"], "instructions": "You are the assistant in this chat.",
        "audio": {"input": heard, "output": {"format": pcm, "voice": "marin"}}, "tools": [tool], "tool_choice": "auto",
    }  # fmt: skip
    client.send("session.update", session=session)
    assert client.receive()["type"] == "session.updated"
    client.speak()
    item_id = client.until(f"{PREFIX}.completed", lambda event: bool(event["transcript"].strip()))["item_id"]
    client.send("response.create", response={"metadata": {"input_item_id": item_id}})
    assert client.until("response.created")["response"]["metadata"] == {"input_item_id": item_id}
    response_id = client.until("response.output_audio.delta")["response_id"]
    item_id = client.wire.open_item
    client.speak()
    client.until("input_audio_buffer.speech_started")
    client.send("response.cancel", response_id=response_id)
    client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=20)
    client.until("conversation.item.truncated")
    client.until(f"{PREFIX}.completed")
    status = {
        "conversation": "none",
        "input": [],
        "tools": [],
        "tool_choice": "none",
        "instructions": "Say: I work on it.",
    }
    client.send("response.create", response={**status, "metadata": {"status": "working"}})
    client.until("response.done", lambda event: event["response"]["metadata"] == {"status": "working"})
    errors = {event["error"]["code"] for event in client.wire.events if event["type"] == "error"}
    assert errors <= {"response_cancel_not_active"}


def test_the_beta_dialect(talking: Running) -> None:
    with connected(talking, beta=True) as client:
        session = client.receive()["session"]
        assert session["modalities"] == ["text", "audio"] and session["input_audio_format"] == "pcm16"
        client.send("session.update", session={"voice": "alloy", "input_audio_transcription": {"model": "whisper-1"}})
        client.until("session.updated")
        client.speak()
        client.until("response.done")
        kinds = set(client.wire.kinds())
        assert {"conversation.item.created", "response.audio.delta", "response.audio_transcript.done"} <= kinds
        assert not [kind for kind in kinds if "output_" in kind and kind != "response.output_item.added"
                    and kind != "response.output_item.done"]  # fmt: skip


@pytest.mark.parametrize("law", ["pcmu", "pcma"])
def test_g711_both_ways(client: Client, law: g711.Law) -> None:
    form = {"type": f"audio/{law}"}
    client.update(audio={"input": {"format": form, **WITH_TRANSCRIPT["input"]}, "output": {"format": form}})
    client.append(np.concatenate([question(8000), silence(1.0, 8000)]), law, chunk=160)
    client.until("response.done")
    if f"{PREFIX}.completed" not in client.wire.kinds():
        client.until(f"{PREFIX}.completed")
    assert is_question(client.wire.last(f"{PREFIX}.completed")["transcript"])
    heard = g711.decode(audio_of(client.wire.events), law)
    assert len(heard) > 8000 and np.abs(heard).max() > 1000


def test_sixty_camera_frames_while_talking(client: Client, logo: str) -> None:
    speech = np.concatenate([question(), silence(1.0)])
    for number in range(60):
        image = {"type": "input_image", "image_url": logo}
        client.send("conversation.item.create", item={"type": "message", "role": "user", "content": [image]})
        client.append(speech[number * 1000 : (number + 1) * 1000])
    client.append(speech[60_000:])
    done = client.until("response.done")["response"]
    assert done["status"] == "completed" and client.wire.kinds().count("response.created") == 1
    assert done["usage"]["input_token_details"]["image_tokens"] > 0


def test_a_damaged_frame_does_not_spoil_the_answers(client: Client) -> None:
    image = {"type": "input_image", "image_url": "data:image/jpeg;base64,AAAA"}
    client.send("conversation.item.create", item={"type": "message", "role": "user", "content": [image]})
    client.until("conversation.item.done")
    for _ in range(3):
        client.create_text("Hello")
        client.send("response.create")
        if client.until("response.done")["response"]["status"] == "completed":
            return
    pytest.fail("no response completed")


def test_the_session_survives_what_clients_do_wrong(client: Client) -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("response.cancel", {}, "response_cancel_not_active"),
        ("response.cancel", {"response_id": "resp_x"}, "response_cancel_not_active"),
        ("input_audio_buffer.commit", {}, "input_audio_buffer_commit_empty"),
        ("conversation.item.retrieve", {"item_id": "nobody"}, "item_retrieve_invalid_item_id"),
        ("conversation.item.delete", {"item_id": "nobody"}, "item_delete_invalid_item_id"),
        ("input_audio_buffer.append", {"audio": "?"}, "invalid_value"),
        ("session.update", {"session": {"audio": {"output": {"speed": 7}}}}, "invalid_value"),
        ("no.such.event", {}, "invalid_value"),
    ]
    for number, (kind, fields, code) in enumerate(wrong):
        client.send(kind, event_id=f"mine_{number}", **fields)
        error = client.until("error")["error"]
        assert (error["code"], error["event_id"]) == (code, f"mine_{number}")
    nested, many = "[" * 200 + "]" * 200, "[" + "0," * 300_000 + "0]"
    for text in ("{", "[]", b"\0\1", *(f'{{"type": "response.cancel", "x": {value}}}' for value in (nested, many))):
        client.send_text(text)
        assert client.until("error")["error"]["code"] == "invalid_json"
    client.send("conversation.item.truncate", item_id="item_x", content_index=0, audio_end_ms=100)
    client.until("conversation.item.truncated")
    client.create_text("Hello")
    client.send("response.create")
    assert client.until("response.done")["response"]["status"] == "completed"


def test_events_stay_below_the_limits_of_clients(client: Client) -> None:
    """The connection would close on a message above 512 KiB; `Wire` checks 256."""
    client.update(audio=MANUAL)
    client.append(np.concatenate([question()] * 8))
    client.send("input_audio_buffer.commit")
    item_id = client.until("input_audio_buffer.committed")["item_id"]
    client.send("conversation.item.retrieve", item_id=item_id)
    client.until("conversation.item.retrieved")
    client.create_text("word " * 40_000)
    client.send("session.update", session={"instructions": "i" * 90_000})
    client.until("session.updated")


def test_reconnecting_with_a_replayed_history(talking: Running) -> None:
    """LiveKit's ids and anchors; a new connection is an empty conversation."""
    with connected(talking) as client:
        client.create_text("My name is Ada.", id="a")
        client.until("conversation.item.done")
    with connected(talking) as client:
        previous = "root"
        turns = [("a", "user", "input_text", "Hello."), ("b", "assistant", "output_text", "Hi."),
                 ("c", "user", "input_text", "What can you do?")]  # fmt: skip
        for item_id, role, kind, text in turns:
            item = {"id": item_id, "type": "message", "role": role, "content": [{"type": kind, "text": text}]}
            client.send("conversation.item.create", item=item, previous_item_id=previous)
            added = client.until("conversation.item.added")
            assert added["previous_item_id"] == (None if previous == "root" else previous)
            assert added["item"]["id"] == item_id
            previous = item_id
        client.send("response.create", response={"metadata": {"client_event_id": "x"}})
        assert client.until("response.created")["response"]["metadata"] == {"client_event_id": "x"}
        assert client.until("response.done")["response"]["status"] == "completed"
        client.send("conversation.item.create", item=item, event_id="again")
        assert client.until("error")["error"]["code"] == "item_create_duplicate_item_id"


def test_a_cancel_is_not_held_up_by_audio(client: Client) -> None:
    """A minute of audio is ahead of it."""
    client.create_text("What can you do?")
    client.send("response.create")
    client.until("response.output_item.added")
    client.append(silence(60), chunk=24_000 * 60)
    client.send("response.cancel", event_id="late")
    assert client.until("response.done")["response"]["status"] in ("cancelled", "completed")


def test_the_speech_engine_of_open_webui(client: Client) -> None:
    """The text is spoken as it stands, not answered."""
    client.update(audio={"input": {"turn_detection": None, "transcription": None}, "output": {"voice": "marin"}})
    text = "What can you do? Nothing in particular."
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    instructions = "You are a text-to-speech renderer. Read the supplied text aloud faithfully."
    response = {"conversation": "none", "output_modalities": ["audio"], "instructions": instructions, "input": [item]}
    client.send("response.create", response=response)
    done = client.until("response.done")["response"]
    assert done["status"] == "completed" and done["output"][0]["content"][0]["transcript"] == text
    assert len(audio_of(client.wire.events)) > 48_000
    client.send("response.create", response=response)
    client.until("response.output_audio.delta")
    client.send("response.cancel")
    assert client.until("response.done")["response"]["status"] == "cancelled"


@pytest.mark.parametrize(
    "name", ["ignore28", "ignore37", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ignore41", "ignore44"))]
)
def test_speech_that_is_not_meant_for_the_model(client: Client, name: str) -> None:
    """Talk among others that the model takes for noise: heard, but neither answered nor written down."""
    client.update(audio=WITH_TRANSCRIPT)
    client.append(np.concatenate([as_pcm(recording(name, 24_000)), silence(1)]))
    assert client.until(f"{PREFIX}.completed")["transcript"] == ""
    assert {"response.created", f"{PREFIX}.delta", "error"}.isdisjoint(client.wire.kinds())
    client.speak()
    assert client.until("response.done")["response"]["status"] == "completed"


def test_coughs_clicks_and_music_stop_no_answer(client: Client) -> None:
    client.update(output_modalities=["text"])
    for kind in ("coughs", "clicks", "typing", "music"):
        client.append(as_pcm(soxr.resample(NO_SPEECH[kind](1), 16_000, 24_000)))
    client.send("conversation.item.retrieve", item_id="nobody")
    client.until("error")
    assert client.wire.kinds().count("input_audio_buffer.speech_started") <= 1


def test_silence_after_an_answer_has_a_timeout(client: Client) -> None:
    detection = {"type": "server_vad", "idle_timeout_ms": 1000}
    client.update(output_modalities=["text"], audio={"input": {"turn_detection": detection}})
    client.speak()
    client.until("response.done")
    for _ in range(20):
        client.append(silence(0.2))
    client.until("input_audio_buffer.timeout_triggered")
    assert client.until("response.done")["response"]["status"] == "completed"


def test_text_only(client: Client) -> None:
    client.update(output_modalities=["text"])
    client.create_text("What can you do?")
    client.send("response.create")
    done = client.until("response.done")["response"]
    assert done["output"][0]["content"][0]["type"] == "output_text" and not audio_of(client.wire.events)


def test_transcription_sessions(talking: Running) -> None:
    with connected(talking, "/v1/realtime?intent=transcription") as client:
        assert client.receive()["session"]["type"] == "transcription"
        client.speak()
        assert is_question(client.until(f"{PREFIX}.completed")["transcript"])
        assert "response.created" not in client.wire.kinds()


def test_the_short_path_and_unknown_parameters(talking: Running) -> None:
    with connected(talking, "/realtime?model=gpt-realtime&something=else") as client:
        assert client.receive()["type"] == "session.created"


def test_keys_subprotocols_and_client_secrets(embedded: vita.Vita) -> None:
    with running(embedded, ServeOptions(port=0, api_keys=("secret-key-1",))) as served:
        with pytest.raises(InvalidStatus) as refused, connected(served):
            pass
        assert refused.value.response.status_code == 401
        protocols = ["realtime", "openai-insecure-api-key.secret-key-1"]
        with connected(served, subprotocols=protocols) as client:
            assert client.receive()["type"] == "session.created"
        body = {"session": {"type": "realtime", "instructions": "Be brief."}, "expires_after": {"seconds": 60}}
        secret = served.client.post("/v1/realtime/client_secrets", json=body).json()
        assert secret["value"].startswith("ek_") and secret["session"]["instructions"] == "Be brief."
        with connected(served, subprotocols=["realtime", f"openai-insecure-api-key.{secret['value']}"]) as client:
            assert client.receive()["session"]["instructions"] == "Be brief."
        bad = served.client.post("/v1/realtime/client_secrets", json={"session": {"type": "other"}})
        assert bad.status_code == 400 and bad.json()["error"]["param"] == "session.type"


def test_nothing_is_left_when_clients_vanish(talking: Running, embedded: vita.Vita) -> None:
    """In the middle of an answer, without a closing handshake."""
    for _ in range(5):
        with connected(talking) as client:
            client.create_text("What can you do?")
            client.send("response.create")
            client.until("response.output_audio.delta")
            client._socket.socket.close()
    with connected(talking) as client:
        client.create_text("Hello")
        client.send("response.create")
        client.until("response.done")
    stats = embedded.stats()
    assert stats.running == 0 and stats.waiting == 0 and talking.server.active == 0


def test_base64_audio_of_any_cut(client: Client) -> None:
    """Pipecat sends 20 ms, LiveKit 100 ms; others whatever they like."""
    speech = np.concatenate([question(), silence(1.0)])
    raw = speech.astype("<i2").tobytes()
    at, dice = 0, random.Random(1)
    while at < len(raw):
        size = dice.choice([2, 960, 4800, 50_000])
        client.send("input_audio_buffer.append", audio=base64.b64encode(raw[at : at + size]).decode())
        at += size
    assert client.until("response.done")["response"]["status"] == "completed"
