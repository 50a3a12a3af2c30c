"""The official openai client against a running server: `openai_http.py URL KEY MODEL IMAGE AUDIO VOICE`.

Exits 1 at a fault. Runs in the environment of scripts/serve_env.sh; imports nothing of ours.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import openai
from openai import OpenAI


def strict(value: Any) -> Any:
    """The value, validated again by its own type: the client itself accepts objects with fields missing."""
    type(value).model_validate(value.model_dump(exclude_unset=True), strict=False)
    return value


def chat(client: OpenAI, model: str, image: str, audio: str) -> None:
    hello: Any = [{"role": "user", "content": "What can you do?"}]
    whole = strict(client.chat.completions.create(model=model, messages=hello, seed=1, n=2, temperature=0))
    assert len(whole.choices) == 2 and whole.choices[0].message.content == whole.choices[1].message.content
    assert whole.usage is not None and whole.usage.prompt_tokens_details is not None
    stream = client.chat.completions.create(
        model=model, messages=hello, stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=1
    )
    said, usage = "", None
    for chunk in stream:
        strict(chunk)
        usage = chunk.usage or usage
        said += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert said == whole.choices[0].message.content and usage is not None and usage.completion_tokens > 0
    seen: Any = [{"role": "user", "content": [
        {"type": "text", "text": "What color is the text?"},
        {"type": "image_url", "image_url": {"url": image, "detail": "low"}},
    ]}]  # fmt: skip
    answer = strict(client.chat.completions.create(model=model, messages=seen))
    assert answer.choices[0].message.content
    heard: Any = [{"role": "user", "content": [
        {"type": "input_audio", "input_audio": {"data": audio, "format": "flac"}},
    ]}]  # fmt: skip
    spoken = strict(client.chat.completions.create(model=model, messages=heard))
    assert spoken.usage is not None and spoken.usage.prompt_tokens_details is not None
    assert spoken.usage.prompt_tokens_details.audio_tokens
    with client.chat.completions.stream(model=model, messages=hello) as events:
        kinds = {event.type for event in events}
    assert "content.delta" in kinds and "content.done" in kinds


def responses(client: OpenAI, model: str, image: str) -> None:
    whole = strict(client.responses.create(model=model, input="What can you do?"))
    assert whole.output_text and whole.status == "completed" and whole.usage is not None
    said, kinds = "", []
    for event in client.responses.create(model=model, input="What can you do?", stream=True):
        strict(event)
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            said += event.delta
    assert said == whole.output_text and kinds[0] == "response.created" and kinds[-1] == "response.completed"
    items: Any = [{"role": "user", "content": [
        {"type": "input_text", "text": "What color is the text?"},
        {"type": "input_image", "image_url": image, "detail": "auto"},
    ]}]  # fmt: skip
    assert client.responses.create(model=model, input=items, instructions="Be brief.").output_text
    with client.responses.stream(model=model, input="Hello") as stream:
        final = stream.get_final_response()
    assert final.output_text


def transcriptions(client: OpenAI, file: Path) -> None:
    with file.open("rb") as opened:
        found = strict(client.audio.transcriptions.create(model="whisper-1", file=opened))
    assert "can you do" in found.text
    with file.open("rb") as opened:
        verbose = strict(
            client.audio.transcriptions.create(model="whisper-1", file=opened, response_format="verbose_json")
        )
    assert verbose.duration > 0 and verbose.segments and verbose.text == " ".join(s.text for s in verbose.segments)
    with file.open("rb") as opened:
        events = list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=opened, stream=True))
    assert [strict(e).type for e in events][-1] == "transcript.text.done"
    with file.open("rb") as opened:
        text = client.audio.transcriptions.create(model="whisper-1", file=opened, response_format="text")
    assert isinstance(text, str) and "can you do" in text


def speech(client: OpenAI, model: str) -> None:
    """Needs a voice on the server."""
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="Hello there.", response_format="pcm"
    ) as answer:
        data = b"".join(answer.iter_bytes())
    assert len(data) > 10_000 and len(data) % 2 == 0
    hello: Any = [{"role": "user", "content": "What can you do?"}]
    whole = strict(
        client.chat.completions.create(
            model=model, messages=hello, modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}
        )
    )
    spoken = whole.choices[0].message.audio
    assert spoken is not None and base64.b64decode(spoken.data)[:4] == b"RIFF" and spoken.transcript
    again: Any = [*hello, {"role": "assistant", "audio": {"id": spoken.id}}, *hello]
    assert client.chat.completions.create(model=model, messages=again).choices[0].message.content
    audio, text = b"", ""
    for chunk in client.chat.completions.create(
        model=model, messages=hello, modalities=["text", "audio"], audio={"voice": "alloy", "format": "pcm16"},
        stream=True,
    ):  # fmt: skip
        strict(chunk)
        for choice in chunk.choices:
            piece = choice.delta.audio
            audio += base64.b64decode(piece.data or "") if piece else b""
            text += (piece.transcript or "") if piece else ""
    assert text == spoken.transcript and len(audio) > 10_000


def errors(url: str, key: str, client: OpenAI) -> None:
    assert [m.id for m in client.models.list()] and client.models.retrieve("vita").id
    hello: Any = [{"role": "user", "content": "Hello"}]
    for expected, call in (
        (openai.AuthenticationError, lambda: OpenAI(base_url=url, api_key="wrong-key-1").models.list()),
        (openai.NotFoundError, lambda: client.models.retrieve("no/such/model")),
        (openai.NotFoundError, lambda: client.chat.completions.create(model="gpt-4o", messages=hello)),
        (openai.NotFoundError, lambda: client.completions.create(model="vita", prompt="x")),
        (openai.BadRequestError, lambda: client.chat.completions.create(model="vita", messages=[])),
    ):
        try:
            call()
        except expected as error:
            assert error.request_id and isinstance(error.body, dict) and error.body["message"], error
        else:
            raise AssertionError(f"{expected.__name__} was not raised")
    try:
        client.chat.completions.create(model="vita", messages=hello, response_format={"type": "json_object"})
    except openai.BadRequestError as error:
        assert (error.code, error.param) == ("unsupported_parameter", "response_format")
    else:
        raise AssertionError("a format that is not honoured was accepted")


def main() -> None:
    url, key, model, image_file, audio_file, voice = sys.argv[1:]
    client = OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)
    image = "data:image/png;base64," + base64.b64encode(Path(image_file).read_bytes()).decode()
    audio = base64.b64encode(Path(audio_file).read_bytes()).decode()
    chat(client, model, image, audio)
    responses(client, model, image)
    transcriptions(client, Path(audio_file))
    errors(url, key, client)
    if voice:
        speech(client, model)
    print("all passed")


if __name__ == "__main__":
    main()
